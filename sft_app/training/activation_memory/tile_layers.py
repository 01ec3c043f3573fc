"""The MLPs of a model, and its norms, in tiles of the sequence: found, tried, put in.

A layer's MLP, its norms and the last norm treat each position for itself, whatever the family. That
is not taken on trust: the loaded model computes a tiny batch in tiles, and is left as it was where
the result is another.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.training.activation_memory.tiled_function import apply_in_tiles
from sft_app.training.activation_memory.tiling_plan import TilingPlan
from sft_app.training.attention.packed_forward import current_forward
from sft_app.training.decoder_layers import decoder_layers
from sft_app.training.loss.patched_forward import decoder_of
from sft_app.training.precision import compute_dtype

MLPS = ("mlp", "feed_forward", "ffn")
"""What families call the MLP of a layer."""
TRIAL_TILE = 5
"""Tokens of a tile of the trial, whose rows have 12: none begins where a row does."""


@dataclass(frozen=True)
class TilingChoice:
    """Whether MLPs are computed in tiles, on the loaded model."""

    tile_tokens: int | None
    """None: they are not."""
    reason: str

    def __str__(self) -> str:
        """Say it in a line of the log."""
        how = "whole rows"
        if self.tile_tokens is not None:
            how = f"MLPs and norms in tiles of {self.tile_tokens:,} tokens"
        return f"tiled MLP       {how} ({self.reason})"


def tile_layers(
    model: PreTrainedModel, plan: TilingPlan, *, called: nn.Module | None = None
) -> TilingChoice:
    """Put the plan into the loaded model, and verify on it that nothing changes.

    `called` is what training calls, where that wraps the model. Raises ConfigError where
    trainer.tiled_mlp=true cannot be had.
    """
    if plan.tile_tokens is None:
        return TilingChoice(None, plan.reason)
    obstacle = tiling_obstacle(model)
    difference = 0.0
    if obstacle is None:
        difference, obstacle = _try_in_tiles(model, called or model)
    if obstacle is None:
        install_tiles(model, plan.tile_tokens)
        return TilingChoice(
            plan.tile_tokens, f"{plan.reason}; equal to whole rows within {difference:.0e}"
        )
    if plan.asked_for:
        raise tiling_refused(obstacle)
    return TilingChoice(None, obstacle)


def tiling_refused(obstacle: str) -> ConfigError:
    """Return what trainer.tiled_mlp=true is refused with."""
    return ConfigError(
        f"trainer.tiled_mlp=true cannot be used here: {obstacle}; leave it out, or set "
        "trainer.tiled_mlp=false."
    )


def tiling_obstacle(model: PreTrainedModel) -> str | None:
    """Return what in the model's build rules tiles out; the model may be without memory."""
    layers = decoder_layers(model)
    mlps = [mlp for layer in layers if (mlp := mlp_of(layer)) is not None]
    if not mlps:
        return f"{type(model).__name__} does not name its MLPs"
    if not all(isinstance(mlp.forward, MethodType) for mlp in mlps):
        return "another package has replaced what its MLPs compute"
    if any(_has_experts(mlp) for mlp in mlps):
        return (
            "the gradients of a mixture's experts, summed over tiles, would take more than what "
            "tiles save"
        )
    return None


def install_tiles(
    model: PreTrainedModel, tile_tokens: int, seen: set[nn.Module] | None = None
) -> None:
    """Let MLPs and norms of all layers compute in tiles; `seen` is told which of them are called.

    Whoever calls such a module with more than hidden states [B, T, D] gets what it always got.
    """
    for module in _positionwise(model):
        inside = _in_tiles(current_forward(module), tile_tokens, seen)
        module.forward = MethodType(inside, module)


def remove_tiles(model: PreTrainedModel) -> None:
    """Put the modules' own forward back."""
    for module in _positionwise(model):
        own = getattr(vars(module).pop("forward", None), "__wrapped__", None)
        if own is not None and own is not type(module).forward:
            module.forward = MethodType(own, module)


def _in_tiles(
    plain: Callable[..., Any], tile_tokens: int, seen: set[nn.Module] | None
) -> Callable[..., Any]:
    # Of what is compiled: the rest of a layer is compiled around it.
    outside: Callable[..., Any] = torch.compiler.disable(apply_in_tiles)

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or args[0].dim() != 3:
            return plain(self, *args, **kwargs)
        if seen is not None:
            seen.add(self)
        return outside(self, functools.partial(plain, self), args[0], tile_tokens)

    return forward


def _positionwise(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Yield the MLP and the norms of each layer that has an MLP, and the last norm."""
    for layer in decoder_layers(model):
        mlp = mlp_of(layer)
        if mlp is not None:
            yield from (part for part in layer.children() if _is_norm(part))
            yield mlp
    yield from (part for part in decoder_of(model).children() if _is_norm(part))


def mlp_of(layer: nn.Module) -> nn.Module | None:
    """Return the MLP of a decoder layer; None where it goes by another name."""
    found = (getattr(layer, name, None) for name in MLPS)
    return next((part for part in found if isinstance(part, nn.Module)), None)


def _is_norm(part: nn.Module) -> bool:
    return type(part).__name__.endswith("Norm")


def _has_experts(mlp: nn.Module) -> bool:
    """Tell a mixture: stacked experts are matrices of three dimensions, others stand in a list."""
    lists = any(isinstance(part, nn.ModuleList) for part in mlp.modules())
    return lists or any(parameter.dim() > 2 for parameter in mlp.parameters())


def _try_in_tiles(model: PreTrainedModel, called: nn.Module) -> tuple[float, str | None]:
    """Return how far tiles are off on a tiny batch, and what is wrong with them."""
    seen: set[nn.Module] = set()
    whole = _hidden_states(model, called)
    install_tiles(model, TRIAL_TILE, seen)
    try:
        difference = _relative(_hidden_states(model, called), whole)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return math.inf, f"MLPs in tiles fail: {error}"
    finally:
        remove_tiles(model)
    if any(mlp_of(layer) not in seen for layer in decoder_layers(model)):
        return difference, "some MLPs are called with more than the hidden states"
    if difference > (1e-5 if compute_dtype(model) == torch.float32 else 2e-2):
        return difference, f"MLPs in tiles give other hidden states, by {difference:.0e}"
    return difference, None


@torch.no_grad()
def _hidden_states(model: PreTrainedModel, called: nn.Module) -> Tensor:
    """Return the last hidden states of a tiny batch, through what training calls."""
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (2, 12), generator=generator).to(model.device)
    caught: list[Tensor] = []
    hook = decoder_of(model).register_forward_hook(
        lambda module, args, output: caught.append(output.last_hidden_state)
    )
    was_training = model.training
    model.eval()
    try:
        called(input_ids=tokens)
    finally:
        hook.remove()
        model.train(was_training)
    return caught[0].float()


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())
