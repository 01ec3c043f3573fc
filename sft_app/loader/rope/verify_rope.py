"""Compare the frequencies that a module really has with what the rope parameters mean."""

import math

import torch
from torch import nn
from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.loader.rope.frequencies import frequencies
from sft_app.loader.rope.model_context import rope_parameter_sets
from sft_app.loader.rope.positions import ALL_LAYERS, PositionKind, Positions, rotary_modules

_TOLERANCE = 2e-6
"""Relative; the modules compute in float32, the closed forms in float64."""


def check_honoured(
    config: PretrainedConfig, positions: Positions, method: str, *, changed: bool
) -> None:
    """Check, without weights, that the architecture turns `config` into the planned frequencies.

    Some rotary families read no rope parameters, or accept only some methods; transformers says so
    with a crash, or not at all. A model that is left alone is compared as well: a rope that is not
    understood here could be neither extended nor checked after loading.
    """
    if positions.kind != PositionKind.rotary:
        return
    if not changed:
        _check_unchanged(config, positions)
        return
    text = config.get_text_config(decoder=True)
    refusal = (
        f"rope.method: {method} does not work with {text.model_type} ({{}}); rope=ntk and rope=abf "
        "ask least of a model, or choose a context_length that fits it."
    )
    if positions.rotary_class is None:
        raise ConfigError(refusal.format("its rotary module does not read the configuration"))
    try:
        validate = getattr(text, "validate_rope", None)
        if validate is not None:
            validate()
        module = positions.rotary_class(text)
    except Exception as error:
        raise ConfigError(refusal.format(f"{type(error).__name__}: {error}")) from error
    difference = _module_difference(module, text, positions.rotary_dims)
    if difference:
        raise ConfigError(refusal.format(difference))
    if method == "longrope":
        try:
            _turn_twice(module, text, positions.rotary_dims)
        except Exception as error:
            raise ConfigError(refusal.format(f"{type(error).__name__}: {error}")) from error


def _check_unchanged(config: PretrainedConfig, positions: Positions) -> None:
    text = config.get_text_config(decoder=True)
    try:
        module = positions.rotary_class(text) if positions.rotary_class else None
    except Exception:  # it wants more than a configuration: looked at once it is loaded
        return
    difference = _module_difference(module, text, positions.rotary_dims) if module else None
    if difference:
        raise ConfigError(
            f"model.name_or_path: the rope of this {text.model_type} model is not what its "
            f"rope_parameters {text.rope_parameters} mean ({difference}); this version of "
            "transformers, or of this application, does not know it: choose another model."
        )


def _turn_twice(module: nn.Module, text: PretrainedConfig, rotary_dims: dict[str, int]) -> None:
    """Run the module twice: longrope chooses its divisors in each forward, and with parameters by
    layer type, transformers before 5.23 fails at the second long batch."""
    last = torch.tensor([[text.max_position_embeddings - 1]])
    for layer_type in rotary_dims:
        for _ in range(2):
            module(torch.zeros(1), last, *(() if layer_type == ALL_LAYERS else (layer_type,)))


def check_built(model: nn.Module, rotary_dims: dict[str, int]) -> None:
    """Check that a loaded model's frequencies are those its configuration means.

    Raises RuntimeError: a difference here is a defect (a cast or uninitialised buffer), never a
    setting of the user.
    """
    text = model.config.get_text_config(decoder=True)  # type: ignore[operator, union-attr]
    for name, module, _ in rotary_modules(model, text):
        difference = _module_difference(module, text, rotary_dims)
        if difference:
            raise RuntimeError(f"{name}: {difference}")


def _module_difference(
    module: nn.Module, text: PretrainedConfig, rotary_dims: dict[str, int]
) -> str | None:
    """Say what differs, in words; None if nothing does, or if no closed form is known."""
    sets = rope_parameter_sets(text)
    for layer_type, dim in rotary_dims.items():
        parameters = sets.get(layer_type)
        prefix = "" if layer_type == ALL_LAYERS else f"{layer_type}_"
        buffer = getattr(module, f"{prefix}inv_freq", None)
        if parameters is None or buffer is None:
            continue
        for key in ("short_factor", "long_factor"):  # the module reads each when it needs it
            divisors = parameters.get(key)
            if isinstance(divisors, list) and len(divisors) != dim // 2:
                return f"{key} has {len(divisors)} numbers, one for each of {dim // 2} is needed"
        limit = int(getattr(text, "max_position_embeddings", 0) or 0)
        expected = frequencies(parameters, dim, limit)
        if expected is None:
            continue
        if buffer.dtype not in (torch.float32, torch.float64):
            return f"inverse frequencies in {buffer.dtype} are too coarse for long positions"
        built = buffer.detach().to("cpu", torch.float64).tolist()
        if len(built) != len(expected.inverse):
            return f"{len(built)} inverse frequencies were built, {len(expected.inverse)} planned"
        for index, (is_, planned) in enumerate(zip(built, expected.inverse, strict=True)):
            if not math.isclose(is_, planned, rel_tol=_TOLERANCE, abs_tol=1e-30):
                return f"inverse frequency {index} is {is_:.6g}, planned {planned:.6g}"
        scaling = getattr(module, f"{prefix}attention_scaling", None)
        if scaling is not None and not math.isclose(
            float(scaling), expected.attention_factor, rel_tol=_TOLERANCE
        ):
            return (
                f"the attention factor is {float(scaling):.6g}, "
                f"planned {expected.attention_factor:.6g}"
            )
    return None
