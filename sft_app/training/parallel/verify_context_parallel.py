"""Verify, on the loaded model, that sequence shards give what whole rows give.

No configuration tells whether everything in a model that looks at other positions is attention of
ours: state spaces, convolutions and caches of its own would each see one shard only, in silence.
So all ranks put a few packed documents through the model, once whole and once in shards.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.data.labels import IGNORE_INDEX, count_supervised
from sft_app.training.attention import packed_attention
from sft_app.training.attention.choose_attention import AttentionPlan
from sft_app.training.attention.verify_isolation import probing
from sft_app.training.parallel.context_parallel import (
    ContextParallelGroup,
    context_parallel_attention,
    shard_for_context_parallel,
)
from sft_app.training.precision import compute_dtype

TOKENS_PER_SHARD = 7
"""Odd, so that documents begin and end inside of shards."""
TOLERATED = {torch.float32: (1e-3, 1e-5)}
TOLERATED_IN_16_BITS = (0.1, 2e-2)
"""For the logits: of what they lose where each shard sees itself alone; for the loss: of the loss.
Matrix products of other shapes round differently, which shows in 16 bits."""
LENGTH_DEPENDENT = ("dynamic", "longrope")


@dataclass(frozen=True)
class ContextParallelCheck:
    """What sequence shards moved, against whole rows."""

    difference: float
    """Root mean square, over the group's logits, between shards and whole rows."""
    control: float
    """The same between whole rows and shards that see themselves alone."""
    loss: float
    """Relative difference of the loss, summed over the shards."""
    tolerated: tuple[float, float]
    """The shares of `control` and of the loss that rounding may take."""

    @property
    def equal(self) -> bool:
        """Tell whether the differences are rounding, and the control is none."""
        share, relative = self.tolerated
        return 0 < self.control >= self.difference / share and self.loss <= relative

    def sentence(self) -> str:
        """Say by how much."""
        return (
            f"sequence shards move the logits by {self.difference:.1e} (without the other shards: "
            f"{self.control:.1e}) and the loss by {self.loss:.1e} of it"
        )


def check_context_parallel(config: PretrainedConfig, attention: AttentionPlan, size: int) -> None:
    """Raise ConfigError for models known, before loading, not to train on sequence shards."""
    obstacle = _obstacle(config, size)
    if attention.name != packed_attention.NAME:
        obstacle = f"its attention is {attention.name}: {attention.reason}"
    if obstacle is not None:
        raise _refusal(config.model_type, size, obstacle)


def _obstacle(config: PretrainedConfig, size: int) -> str | None:
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):
        return f"{config.model_type} models do not have the same attention heads in all layers"
    if heads % size:
        return f"it has {heads} attention heads, which {size} ranks cannot share evenly"
    if getattr(text, "output_router_logits", False):
        return "its router loss is that of whole rows"
    if "chunked_attention" in (getattr(text, "layer_types", None) or ()):
        return f"attention of {config.model_type} models is chunked by positions in the row"
    for kind in _rope_types(getattr(text, "rope_parameters", None) or {}):
        if kind in LENGTH_DEPENDENT:
            return f"the frequencies of {kind} RoPE follow the longest position of a shard"
    return None


def _rope_types(parameters: dict[str, object]) -> list[object]:
    """Of all layers, or of each type of layers."""
    by_layer_type = [p for p in parameters.values() if isinstance(p, dict)]
    return [p.get("rope_type") for p in by_layer_type or [parameters]]


def verify_context_parallel(
    model: PreTrainedModel, cp_group: ContextParallelGroup, called: nn.Module | None = None
) -> ContextParallelCheck:
    """Verify on every rank of the group, with the same model; ConfigError where shards differ.

    `called` is what training calls, where that wraps the model.
    """
    try:
        check = compare_shards_with_whole(model, cp_group, called or model)
        finding = None if check.equal else check.sentence()
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        finding = str(error).splitlines()[0]
    if finding is not None:
        raise _refusal(model.config.model_type, cp_group.size, finding)
    return check


def _refusal(family: str, size: int, reason: str) -> ConfigError:
    return ConfigError(
        f"trainer.context_parallel_size={size}: this {family} model cannot be trained on "
        f"sequence shards ({reason}); use trainer.context_parallel_size=1, and "
        "trainer.gradient_checkpointing=true for long rows."
    )


@torch.no_grad()
def compare_shards_with_whole(
    model: PreTrainedModel, cp_group: ContextParallelGroup, called: nn.Module
) -> ContextParallelCheck:
    """Put a short row of three documents through `called`, as training calls it."""
    batch = _packed_row(model, TOKENS_PER_SHARD * cp_group.size - 1)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    shard, documents = shard_for_context_parallel(batch, cp_group)
    shard_inputs = {name: shard[name] for name in inputs}
    length = shard["input_ids"].shape[1]
    mine = slice(
        cp_group.rank * length, min((cp_group.rank + 1) * length, batch["input_ids"].shape[1])
    )
    num_items = count_supervised(batch["labels"])

    with probing(model):  # documents are longer than windows and chunks
        whole = called(**inputs).logits[:, mine].float()
        alone = called(**shard_inputs).logits[:, : whole.shape[1]].float()
        whole_loss = called(**inputs, labels=batch["labels"], num_items_in_batch=num_items).loss
        with context_parallel_attention(documents, cp_group):
            split = called(**shard_inputs).logits[:, : whole.shape[1]].float()
            split_loss = called(**shard, num_items_in_batch=num_items).loss
    sums = torch.stack(
        [(split - whole).square().sum(), (alone - whole).square().sum(), split_loss.float()]
    )
    dist.all_reduce(sums, group=cp_group.group)
    difference, control = (sums[:2] / batch["input_ids"].numel()).sqrt().tolist()
    loss = abs(sums[2].item() - whole_loss.item()) / abs(whole_loss.item())
    tolerated = TOLERATED.get(compute_dtype(model), TOLERATED_IN_16_BITS)
    return ContextParallelCheck(difference, control, loss, tolerated)


def _packed_row(model: PreTrainedModel, length: int) -> dict[str, Tensor]:
    """Return a document of a third of the row, one of two thirds, and one of a single token."""
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (1, length), generator=generator)
    labels = tokens.clone()
    labels[:, : length // 4] = IGNORE_INDEX
    lengths = [length // 3, length - length // 3 - 1, 1]
    positions = torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0)
    batch = {"input_ids": tokens, "labels": labels, "position_ids": positions}
    return {name: tensor.to(model.device) for name, tensor in batch.items()}
