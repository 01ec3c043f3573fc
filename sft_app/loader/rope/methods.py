"""The context-extension methods: from a factor to the rope parameters that a model is built with.

theta, the partial rotary share and the multimodal sections of the model are kept; every trace of
another method is dropped.
"""

from dataclasses import dataclass, replace
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.rope.base_bound import smallest_base
from sft_app.loader.rope.frequencies import ntk_theta
from sft_app.loader.rope.model_context import states_alpha

RopeParameters = dict[str, Any]

_OF_A_METHOD = frozenset(
    {
        "rope_type",
        "type",
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        "low_freq_factor",
        "high_freq_factor",
        "short_factor",
        "long_factor",
        "short_mscale",
        "long_mscale",
        "alpha",
    }
)


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What one frequency set is to be extended by."""

    current: RopeParameters
    """The parameters that the model has."""
    factor: float
    original: int
    """Tokens of the pre-training context."""
    effective: int
    """Tokens that are to be reached."""
    dim: int
    """Rotated dimensions of a head."""
    rope: RopeConfig

    def inherited(self, method: str) -> RopeParameters:
        """Return the makers' settings if the model has this very method; only its factor grows."""
        return self.current if self.current.get("rope_type") == method else {}


def extended_parameters(method: RopeMethod, extension: Extension) -> RopeParameters:
    """Return the parameters with which a frequency set reaches `factor` * `original` tokens.

    Raises ConfigError when a field of `rope` cannot work for this model.
    """
    extension = _with_plain_base(extension)
    kept = {key: v for key, v in extension.current.items() if key not in _OF_A_METHOD}
    match method:
        case RopeMethod.linear if extension.current.get("rope_type") == "proportional":
            # Gemma 4's proportional rope has a factor of its own; as `linear` it would also turn
            # the frequencies that stand still.
            return {**extension.current, "factor": extension.factor}
        case RopeMethod.linear | RopeMethod.dynamic:
            return {**kept, "rope_type": method.value, "factor": extension.factor}
        case RopeMethod.ntk:
            return {**kept, "rope_type": "default", "rope_theta": _ntk_theta(extension)}
        case RopeMethod.abf:
            return {**kept, "rope_type": "default", "rope_theta": _abf_theta(extension)}
        case RopeMethod.yarn:
            return {**kept, **_yarn(extension)}
        case RopeMethod.llama3:
            return {**kept, **_llama3(extension)}
        case RopeMethod.longrope:
            return {**kept, **_longrope(extension)}
        case _:
            raise AssertionError(f"{method} changes no rope parameters")


def _with_plain_base(extension: Extension) -> Extension:
    """Write a base that is stated as a theta and an alpha as the one number that it is."""
    current = extension.current
    if not states_alpha(current):
        return extension
    base = ntk_theta(float(current["rope_theta"]), float(current["alpha"]), extension.dim)
    plain = {key: value for key, value in current.items() if key not in _OF_A_METHOD}
    return replace(extension, current={**plain, "rope_type": "default", "rope_theta": base})


def _ntk_theta(extension: Extension) -> float:
    if extension.dim <= 2:
        raise ConfigError(
            f"rope.method: ntk needs more than 2 rotated dimensions, this model has "
            f"{extension.dim}; use rope.method=linear."
        )
    return ntk_theta(float(extension.current["rope_theta"]), extension.factor, extension.dim)


def _abf_theta(extension: Extension) -> float:
    own = float(extension.current["rope_theta"])
    theta = extension.rope.theta
    if theta is None:
        return smallest_base(extension.effective, own)
    if theta <= own:
        raise ConfigError(
            f"rope.theta: {theta:g}, but abf needs a base above the model's own {own:g}; set for "
            f"example rope.theta={own * 50:g}, or leave it out for the bound on the base."
        )
    return float(theta)


def _yarn(extension: Extension) -> RopeParameters:
    rope, inherited = extension.rope, extension.inherited("yarn")
    chosen = {
        # The attention factor of the old factor is not inherited: it is derived anew.
        "attention_factor": rope.attention_factor,
        "beta_fast": _first(rope.beta_fast, inherited.get("beta_fast")),
        "beta_slow": _first(rope.beta_slow, inherited.get("beta_slow")),
        "mscale": _first(rope.mscale, inherited.get("mscale")),
        "mscale_all_dim": _first(rope.mscale_all_dim, inherited.get("mscale_all_dim")),
        "truncate": _first(rope.truncate, inherited.get("truncate")),
    }
    fast, slow = chosen["beta_fast"], chosen["beta_slow"]
    if (fast if fast is not None else 32) <= (slow if slow is not None else 1):
        raise ConfigError(
            f"rope.beta_fast: {fast} must be above rope.beta_slow ({slow}); "
            "the paper has rope.beta_fast=32 rope.beta_slow=1."
        )
    return {
        "rope_type": "yarn",
        "factor": extension.factor,
        "original_max_position_embeddings": extension.original,
        **{key: value for key, value in chosen.items() if value is not None},
    }


def _llama3(extension: Extension) -> RopeParameters:
    rope, inherited = extension.rope, extension.inherited("llama3")
    low = _first(rope.low_freq_factor, inherited.get("low_freq_factor"), 1.0)
    high = _first(rope.high_freq_factor, inherited.get("high_freq_factor"), 4.0)
    if not low < high:
        raise ConfigError(
            f"rope.high_freq_factor: {high:g} must be above rope.low_freq_factor ({low:g}); "
            "Llama 3.1 has 4 and 1."
        )
    return {
        "rope_type": "llama3",
        "factor": extension.factor,
        "original_max_position_embeddings": extension.original,
        "low_freq_factor": low,
        "high_freq_factor": high,
    }


def _longrope(extension: Extension) -> RopeParameters:
    rope, pairs = extension.rope, extension.dim // 2
    for key, divisors in (("short_factor", rope.short_factor), ("long_factor", rope.long_factor)):
        if divisors is None or len(divisors) != pairs or min(divisors) <= 0:
            has = "null" if divisors is None else f"{len(divisors)} numbers"
            raise ConfigError(
                f"rope.{key}: {has}, but longrope needs one positive divisor for each of this "
                f"model's {pairs} rotary frequencies; give such a list, or use rope=yarn."
            )
    parameters: RopeParameters = {
        "rope_type": "longrope",
        "factor": extension.factor,
        "original_max_position_embeddings": extension.original,
        "short_factor": [float(x) for x in rope.short_factor or []],
        "long_factor": [float(x) for x in rope.long_factor or []],
    }
    if rope.attention_factor is not None:
        parameters["attention_factor"] = rope.attention_factor
    return parameters


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
