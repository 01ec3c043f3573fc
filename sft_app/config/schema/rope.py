"""How positions are extended when `context_length` exceeds the model's own context."""

from dataclasses import dataclass
from enum import StrEnum


class RopeMethod(StrEnum):
    """Context-extension methods; `conf/rope/<name>.yaml` says when to use each, and its paper."""

    auto = "auto"
    none = "none"
    linear = "linear"
    dynamic = "dynamic"
    ntk = "ntk"
    abf = "abf"
    yarn = "yarn"
    llama3 = "llama3"
    longrope = "longrope"
    extend_positions = "extend_positions"


class FactorRounding(StrEnum):
    """How the factor L / L0 is rounded: up to a whole number (FastChat's rule), or not at all."""

    ceil = "ceil"
    exact = "exact"


@dataclass(kw_only=True)
class RopeConfig:
    method: RopeMethod = RopeMethod.auto
    """auto: nothing when the length fits, else linear with factor ceil(L / L0)."""
    factor: float | None = None
    """Null: derived from `context_length` and the model's original context."""
    factor_rounding: FactorRounding = FactorRounding.ceil
    force: bool = False
    """Allow what is refused by default: another method over a model that is scaled already, or
    training with `dynamic`."""
    theta: float | None = None
    """abf: the new base (required there). Other methods keep the model's own base."""
    attention_factor: float | None = None
    """yarn, longrope: multiplies cos and sin; null = the paper's value for the factor."""
    beta_fast: float | None = None
    """yarn: dimensions that turn more often than this in the original context are kept."""
    beta_slow: float | None = None
    """yarn: dimensions that turn less often than this are interpolated fully."""
    mscale: float | None = None
    """yarn (DeepSeek's variant): numerator of the attention factor."""
    mscale_all_dim: float | None = None
    """yarn (DeepSeek's variant): denominator of the attention factor."""
    truncate: bool | None = None
    """yarn: round the ramp's ends to whole dimensions (transformers' default is true)."""
    low_freq_factor: float | None = None
    """llama3: wavelengths above original / low_freq_factor are interpolated fully."""
    high_freq_factor: float | None = None
    """llama3: wavelengths below original / high_freq_factor are kept."""
    short_factor: list[float] | None = None
    """longrope: one divisor per rotary frequency, up to the original context."""
    long_factor: list[float] | None = None
    """longrope: one divisor per rotary frequency, beyond the original context."""
