"""DroPE: the rotation is dropped, and a short training teaches the model to do without it.

Gelberg et al. 2025, "Extending the Context of Pretrained LLMs by Dropping Their Positional
Embeddings", arXiv:2512.12167: rotary positions help a model to learn, and are what it cannot leave
its context with; causal attention alone tells it enough afterwards. What is left is a plain
architecture of transformers: SmolLM3 has Llama's weights under Llama's names, and a switch for the
rotation of each layer.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, SmolLM3Config

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.loader.rope.model_context import AttentionWindows, ModelContext, rope_parameter_sets
from sft_app.loader.rope.position_plan import PositionPlan
from sft_app.loader.rope.positions import ALL_LAYERS, rotary_modules

_TAKEN_OVER = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range",
    "rms_norm_eps", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "attention_bias",
    "attention_dropout", "mlp_bias", "tie_word_embeddings", "dtype",
)  # fmt: skip
_SMALL: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.0,
    "layer_types": ["full_attention"] * 2, "no_rope_layers": [1, 1],
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
"""The same architecture, small enough to be computed while planning."""
_TOLERANCE = 1e-5


def decide_drop(
    config: PretrainedConfig,
    context: ModelContext,
    windows: AttentionWindows,
    length: int,
    rope: RopeConfig,
) -> PositionPlan:
    """Plan to drop the rotation; ConfigError for a model that SmolLM3 cannot stand for.

    Whatever rope scaling the model has goes with its rotation. What is saved states `length`
    tokens, the model's own context where that is longer, or `rope.factor` times its original one.
    """
    if windows.size is not None:
        raise ConfigError(
            f"rope.method: drope would leave this {config.model_type} model, whose layers see only "
            f"{windows.size:,} tokens, no way to tell how far away anything is; use rope=yarn."
        )
    check_can_drop(config)
    stated = max(length, context.effective or 0)
    if rope.factor is not None and context.original is not None:
        stated = round(context.original * rope.factor)
        if stated < length:
            raise ConfigError(
                f"rope.factor: {rope.factor:g} states {stated} tokens, less than "
                f"context_length={length}; leave it out, or raise it."
            )
    return PositionPlan(
        method="drope",
        changed=True,
        reason=(
            "the rotation is dropped from every layer, and the model is SmolLM3's architecture "
            "from here on: the same weights, no positions (arXiv:2512.12167)"
        ),
        effective=stated,
        rope_parameters={"rope_type": "default", "rope_theta": _own_theta(config)},
        max_position_embeddings=stated,
        warnings=(
            "without its rotation the model is worth little until it is tuned: compare the "
            "evaluation before and after.",
            "no GGUF file can be made of it: llama.cpp rotates three of four layers of every "
            "SmolLM3 model, and none of this one's rotates.",
        ),
    )


def dropped_config(config: PretrainedConfig) -> SmolLM3Config:
    """Return the configuration of the same weights without rotation."""
    values = {name: getattr(config, name) for name in _TAKEN_OVER if hasattr(config, name)}
    if values.get("head_dim") is None:
        values["head_dim"] = config.hidden_size // config.num_attention_heads
    dropped = SmolLM3Config(
        **values,
        rope_parameters={"rope_type": "default", "rope_theta": _own_theta(config)},
        no_rope_layers=[0] * config.num_hidden_layers,
        architectures=["SmolLM3ForCausalLM"],
    )
    dropped.name_or_path = config.name_or_path
    return dropped


def check_can_drop(config: PretrainedConfig) -> None:
    """Raise ConfigError unless SmolLM3 computes what this architecture does without rotation.

    Asked, not listed: the names and shapes of the weights are compared, and the logits of a small
    model of the same architecture with its rotation held still.
    """
    refusal = (
        f"rope.method: drope is saved as SmolLM3, which has Llama's layers, and this "
        f"{config.model_type} model is not one of them ({{}}); use rope=yarn or rope=linear."
    )
    if config.get_text_config(decoder=True) is not config:
        raise ConfigError(refusal.format("its language model is a part of another"))
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(refusal.format("its weights are quantised"))
    try:
        own, plain = build_skeleton(config), build_skeleton(dropped_config(config))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(refusal.format(f"{type(error).__name__}: {error}")) from error
    different = _different_weights(own, plain)
    if different is not None:
        raise ConfigError(refusal.format(different))
    try:
        distance = _difference_of_small_models(config)
    except Exception as cause:  # an architecture that a small configuration does not suit
        raise ConfigError(refusal.format(f"{type(cause).__name__}: {cause}")) from cause
    if not distance <= _TOLERANCE:
        raise ConfigError(refusal.format(f"its logits differ by {distance:.1g}"))


def _own_theta(config: PretrainedConfig) -> float:
    parameters = rope_parameter_sets(config).get(ALL_LAYERS, {})
    return float(parameters.get("rope_theta", 10000.0))


def _different_weights(own: PreTrainedModel, plain: PreTrainedModel) -> str | None:
    shapes, expected = (
        {name: tuple(p.shape) for name, p in model.named_parameters()} for model in (own, plain)
    )
    for name in sorted(shapes.keys() ^ expected.keys()):
        whose = "which SmolLM3 lacks" if name in shapes else "which it lacks"
        return f"{name!r}, {whose}"
    for name, shape in shapes.items():
        if expected[name] != shape:
            return f"{name!r} of {list(shape)} would be {list(expected[name])}"
    return None


@torch.no_grad()
def _difference_of_small_models(config: PretrainedConfig) -> float:
    """Return how far the logits are apart, as a share of the largest."""
    small = copy.deepcopy(config)
    for name, value in _SMALL.items():
        if hasattr(small, name):
            setattr(small, name, value)
    small.rope_parameters = {"rope_type": "default", "rope_theta": _own_theta(config)}
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        own = _build(small)
        plain = _build(dropped_config(small))
        for parameter in own.parameters():  # also norms and biases, which begin as ones and zeros
            parameter.normal_(std=0.2)
        plain.load_state_dict(own.state_dict())
        ids = torch.randint(_SMALL["vocab_size"], (2, 12))
    for _, module, _ in rotary_modules(own, own.config):
        module.register_forward_hook(_hold_still)
    expected = own(ids, use_cache=False).logits
    found = plain(ids, use_cache=False).logits
    return float((found - expected).abs().max() / expected.abs().max())


def _build(config: PretrainedConfig) -> PreTrainedModel:
    built: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    return built.eval()


def _hold_still(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> Any:
    cos, sin = output
    return torch.ones_like(cos), torch.zeros_like(sin)


@contextmanager
def _quiet() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
