"""Whether positions may be skipped: what the plan allows, and what the loaded model computes."""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.loader.rope.model_context import attention_windows
from sft_app.loader.rope.positions import PositionKind
from sft_app.loader.rope.rope_plan import RopePlan
from sft_app.training.attention.verify_isolation import LENGTHS, probe_batch, probing
from sft_app.training.precision import compute_dtype

REFUSED = "data.position_skipping=pose: {}; set data.position_skipping=none."
FAR = 37
"""How far the probe's second chunks are moved on."""


def check_positions_can_skip(config: PretrainedConfig, rope: RopePlan) -> None:
    """Raise ConfigError for a model in which moved positions would not simulate a longer text."""
    if rope.positions is not PositionKind.rotary or rope.method == "drope":
        kind = "no positions" if rope.method == "drope" else f"positions of kind {rope.positions}"
        raise ConfigError(REFUSED.format(f"it needs rotary positions, and this model has {kind}"))
    windows = attention_windows(config.get_text_config(decoder=True))
    if windows.size is not None:
        raise ConfigError(
            REFUSED.format(
                f"{windows.windowed_layers} layers see {windows.size:,} tokens each, which counts "
                "tokens and not positions: they would see over the skipped ones"
            )
        )


@torch.no_grad()
def verify_skipped_positions(model: PreTrainedModel, called: nn.Module) -> str:
    """Verify that a packed row with skipped positions gives what its documents give alone.

    The reference is each document with a mask that hides nothing: with one, transformers does not
    look for documents in positions. Raises ConfigError where they differ.
    """
    tokens = probe_batch(model)["input_ids"][:1]
    parts, start = [], 0
    with probing(model):
        positions = torch.cat([_skipped(length) for length in LENGTHS]).unsqueeze(0)
        packed = called(input_ids=tokens, position_ids=positions.to(tokens.device)).logits.float()
        unmoved = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
        before = called(input_ids=tokens, position_ids=unmoved.to(tokens.device)).logits.float()
        for length in LENGTHS:
            document = tokens[:, start : start + length]
            alone = called(
                input_ids=document,
                attention_mask=torch.ones_like(document),
                position_ids=_skipped(length).unsqueeze(0).to(tokens.device),
            )
            parts.append(alone.logits.float())
            start += length
    expected = torch.cat(parts, dim=1)
    difference = (packed - expected).square().mean().sqrt().item()
    effect = (packed - before).square().mean().sqrt().item()
    dtype = compute_dtype(model)
    rounding = 2 * torch.finfo(dtype).eps * expected.abs().max().item()
    share = 1e-3 if dtype == torch.float32 else 0.1
    found = (
        f"packed rows with skipped positions differ from their documents alone by "
        f"{difference:.1e}; skipping moves the logits by {effect:.1e}"
    )
    if not (effect > rounding and difference <= max(share * effect, rounding)):
        raise ConfigError(REFUSED.format(f"{type(model).__name__} cannot: {found}"))
    return found


def _skipped(length: int) -> torch.Tensor:
    positions = torch.arange(length)
    positions[length // 2 + 1 :] += FAR
    return positions
