"""What a forward keeps for its backward, counted on the architecture itself.

The model is run once on fake tensors, which have shapes, dtypes and autograd, and no memory. What
autograd saves is noted layer by layer: so grouped heads, gated MLPs, experts, adapters and mixed
precision count as what they are. Attention counts as flash kernels keep it: queries, keys, values
and the output, no scores.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, PretrainedConfig

from sft_app.compat import model_internals
from sft_app.config.schema.adapter import AdapterConfig
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.loader.model.broadcast import places_of
from sft_app.training.activation_memory.tile_layers import install_tiles, tiling_obstacle
from sft_app.training.attention.choose_attention import use_attention
from sft_app.training.decoder_layers import decoder_layers
from sft_app.training.loss.patched_forward import decoder_of
from sft_app.training.parallel.distribute_weights import replace as put_in_place
from sft_app.training.peft.lora import put_adapter

SHAPE_ONLY = "sft_shape_only"
"""The attention implementation that computes nothing."""
TOKENS = (64, 128)
"""Of two runs: what grows between them is kept for each token, the rest is weights."""
ENOUGH_LAYERS = 2
"""Of layers that are all alike: more of them keep the same."""


@dataclass(frozen=True)
class Activations:
    """Bytes for each token of a batch."""

    layers: tuple[float, ...]
    """Kept inside of each decoder layer."""
    layer_input: float
    """What is kept of a layer that is recomputed in backward."""
    around: float
    """Kept before and after the layers."""
    count_tiled: "Callable[[], Activations | None]" = field(default=lambda: None, compare=False)

    @cached_property
    def tiled(self) -> "Activations | None":
        """Return the same where MLPs and norms are computed in tiles; None: they cannot be.

        Counted when it is first asked for: that takes longer than all else.
        """
        return self.count_tiled()


class _ShapeOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        attended = query.new_empty(batch, length, heads, value.shape[-1])
        ctx.save_for_backward(query, key, value, attended)
        return attended


class _ProductsOfExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor) -> Tensor:
        """Rows [N, D] and weights [E, D, F] -> [N, F], of each row's own expert."""
        ctx.save_for_backward(rows, weights)
        return rows.new_empty(len(rows), weights.shape[-1])


class _ShapesOfExperts(TorchFunctionMode):
    """Takes the place of a kernel that PyTorch knows for fake tensors of bfloat16 alone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is model_internals.grouped_product():
            rows, weights = args[:2]
            if torch.is_autocast_enabled("cpu"):
                dtype = torch.get_autocast_dtype("cpu")
                rows, weights = rows.to(dtype), weights.to(dtype)
            return _ProductsOfExperts.apply(rows, weights)
        return func(*args, **(kwargs or {}))


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    attended: Tensor = _ShapeOnly.apply(query, key, value)
    return attended, None


def count_activations(
    config: PretrainedConfig,
    adapter: AdapterConfig,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
) -> Activations | None:
    """Count what training keeps; None where the architecture does not run on fake tensors.

    `dtype` is the parameters', `compute_dtype` that of matrix products.
    """
    short, num_layers = _with_enough_layers(config)
    AttentionInterface.register(SHAPE_ONLY, _attend)

    def count(*, in_tiles: bool) -> Activations | None:
        try:
            few, many = (
                _saved_bytes(short, adapter, dtype, compute_dtype, tokens, in_tiles=in_tiles)
                for tokens in TOKENS
            )
        except Exception:  # whatever a family's code does with a tensor that has no numbers
            return None
        if len(few.layers) != len(many.layers) or not few.layers:
            return None
        return _per_token(few, many, num_layers)

    whole = count(in_tiles=False)
    if whole is None:
        return None

    def count_tiled() -> Activations | None:
        tiled = count(in_tiles=True)
        return None if tiled == whole else tiled  # nothing is computed in tiles

    return replace(whole, count_tiled=count_tiled)


def _per_token(few: Activations, many: Activations, num_layers: int) -> Activations:
    """Return what grows between two runs."""

    def per_token(less: float, more: float) -> float:
        return (more - less) / (TOKENS[1] - TOKENS[0])

    layers = [per_token(a, b) for a, b in zip(few.layers, many.layers, strict=True)]
    layers += [layers[-1]] * (num_layers - len(layers))
    return Activations(
        layers=tuple(layers),
        layer_input=per_token(few.layer_input, many.layer_input),
        around=per_token(few.around, many.around),
    )


def _with_enough_layers(config: PretrainedConfig) -> tuple[PretrainedConfig, int]:
    """Return the configuration with a few layers where all are alike, and its own number."""
    short = copy.deepcopy(config)
    text = short.get_text_config(decoder=True)
    number: int = text.num_hidden_layers
    kinds = getattr(text, "layer_types", None)
    alike = kinds is None or len(set(kinds)) == 1
    experts_later = getattr(text, "first_k_dense_replace", None) or getattr(
        text, "attn_layer_period", None
    )
    if number > ENOUGH_LAYERS and alike and not experts_later:
        text.num_hidden_layers = ENOUGH_LAYERS
        if kinds is not None:
            text.layer_types = list(kinds)[:ENOUGH_LAYERS]
    return short, number


def _saved_bytes(
    config: PretrainedConfig,
    adapter: AdapterConfig,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
    tokens: int,
    *,
    in_tiles: bool,
) -> Activations:
    """Return bytes of the whole batch, for one row of `tokens`."""
    model = build_skeleton(config, dtype=dtype)
    put_adapter(model, adapter)
    use_attention(model, SHAPE_ONLY)
    with FakeTensorMode():
        places = places_of(model)
        for parameter in list(model.parameters()):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            put_in_place(places[id(parameter)], nn.Parameter(empty, parameter.requires_grad))
        for buffer in list(model.buffers()):
            put_in_place(places[id(buffer)], torch.empty(buffer.shape, dtype=buffer.dtype))
        model.train()
        if in_tiles and tiling_obstacle(model) is None:
            install_tiles(model, TOKENS[0] // 4)
        counter = _Counter(model)
        layers = decoder_layers(model)
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(counter.enter(index), with_kwargs=True)
            layer.register_forward_hook(counter.leave)
        input_ids = torch.zeros(1, tokens, dtype=torch.long)
        mixed = compute_dtype != dtype
        with (
            _ShapesOfExperts(),
            torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=compute_dtype if mixed else None, enabled=mixed),
        ):
            decoder_of(model)(input_ids=input_ids, use_cache=False)
        by_layer = [counter.bytes.get(index, 0) for index in range(len(layers))]
        return Activations(tuple(by_layer), counter.layer_input, counter.bytes.get(None, 0))


class _Counter:
    """Notes the size of every storage that autograd keeps, once, by the layer that runs."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes: dict[int | None, int] = {}
        self.layer_input = 0
        self.layer: int | None = None
        self.storages: dict[int, Any] = {}
        """By address; held, so that no address is used twice."""
        for parameter in model.parameters():
            self._is_new(parameter)

    def pack(self, tensor: Tensor) -> Tensor:
        if self._is_new(tensor):
            size = tensor.untyped_storage().nbytes()
            self.bytes[self.layer] = self.bytes.get(self.layer, 0) + size
        return tensor

    def _is_new(self, tensor: Tensor) -> bool:
        key = model_internals.storage_key(tensor)
        if key in self.storages:
            return False
        self.storages[key] = tensor.untyped_storage()
        return True

    def enter(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self.layer = index
            hidden = args[0] if args else kwargs.get("hidden_states")
            if isinstance(hidden, Tensor):
                self.layer_input = hidden.nbytes

        return hook

    def leave(self, *args: Any) -> None:
        self.layer = None
