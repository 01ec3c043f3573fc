"""How positions are extended when `context_length` exceeds the model's own context."""

from dataclasses import dataclass
from enum import StrEnum


class RopeMethod(StrEnum):
    """Context-extension methods; `conf/rope/<name>.yaml` says when to use each."""

    auto = "auto"
    """Nothing when the length fits the model, else linear."""
    none = "none"
    """Leave the positions alone: extrapolation beyond the model's context."""
    linear = "linear"
    """Position interpolation: every frequency divided by the factor (arXiv:2306.15595)."""
    dynamic = "dynamic"
    """NTK whose base grows with each input: for inference only (arXiv:2309.00071, appendix B)."""
    ntk = "ntk"
    """NTK-aware scaling: a larger base, from the factor (arXiv:2309.00071, section 3.1)."""
    abf = "abf"
    """Adjusted base frequency: a larger base, of your choice or by a bound (arXiv:2309.16039)."""
    yarn = "yarn"
    """Slow frequencies interpolated, fast ones kept, attention sharpened (arXiv:2309.00071)."""
    llama3 = "llama3"
    """Llama 3.1's rule by wavelengths (arXiv:2407.21783)."""
    longrope = "longrope"
    """A searched divisor for each frequency (arXiv:2402.13753)."""
    drope = "drope"
    """The rotation dropped, and a short training without it (arXiv:2512.12167)."""
    extend_positions = "extend_positions"
    """For learned position tables (OPT, GPT-2): the table is interpolated."""


class FactorRounding(StrEnum):
    """How the factor L / L0 is rounded."""

    ceil = "ceil"
    """Up to a whole number: FastChat's rule."""
    exact = "exact"
    """Not at all."""


@dataclass(kw_only=True)
class RopeConfig:
    """Say how positions are extended when `context_length` exceeds the model's own context."""

    method: RopeMethod = RopeMethod.auto
    """How positions are extended; auto: not at all when the length fits, else linear with factor
    ceil(L / L0)."""
    factor: float | None = None
    """How many times the original context; null: derived from `context_length` and the model."""
    factor_rounding: FactorRounding = FactorRounding.ceil
    """How a derived factor is rounded."""
    force: bool = False
    """Allow what is refused by default: another method over a model that is scaled already, or
    training with `dynamic`."""
    theta: float | None = None
    """abf: the new base; null: 0.0424 * context_length^1.628, the fitted bound on the base
    (arXiv:2405.14591), and never below the model's own. Other methods keep the model's own."""
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
