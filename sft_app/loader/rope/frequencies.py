"""Closed forms of the rotary methods: what inverse frequencies a set of rope parameters means.

Written from the papers in float64, independent of transformers, so that the frequencies which a
model was really built with can be compared with the ones that were planned.

Letters: d = rotated dimensions of a head, i = 0 .. d/2 - 1, theta = base, s = factor,
L0 = original context. The plain frequencies are theta^(-2i/d), Su et al. 2021, arXiv:2104.09864.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Frequencies:
    """What a rotary module must have been built with."""

    inverse: list[float]
    """Radians per token, one per pair of rotated dimensions."""
    attention_factor: float
    """Multiplies cosine and sine."""


def frequencies(
    rope_parameters: Mapping[str, Any], dim: int, max_position_embeddings: int
) -> Frequencies | None:
    """Compute the frequencies for inputs up to the original context; None for an unknown method.

    `rope_parameters` is one flat set, as `config.rope_parameters` has it; `dim` is d.
    """
    theta = float(rope_parameters["rope_theta"])
    plain = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    match rope_parameters.get("rope_type", "default"):
        case "dynamic" if rope_parameters.get("alpha"):  # HunYuan: NTK-aware with a fixed alpha
            base = ntk_theta(theta, float(rope_parameters["alpha"]), dim)
            return Frequencies([base ** (-2 * i / dim) for i in range(dim // 2)], 1.0)
        case "default" | "dynamic":  # dynamic is plain up to the original context
            return Frequencies(plain, 1.0)
        case "linear":
            factor = float(rope_parameters["factor"])
            return Frequencies([f / factor for f in plain], 1.0)
        case "yarn":
            return _yarn(rope_parameters, plain, dim, max_position_embeddings)
        case "llama3":
            return Frequencies([_llama3(rope_parameters, f) for f in plain], 1.0)
        case "longrope":
            return _longrope(rope_parameters, plain, max_position_embeddings)
        case "proportional":
            return Frequencies(_proportional(rope_parameters, plain, dim), 1.0)
        case _:
            return None


def ntk_theta(theta: float, factor: float, dim: int) -> float:
    """Return theta * s^(d / (d - 2)), NTK-aware scaling: arXiv:2309.00071, section 3.1."""
    return float(theta * factor ** (dim / (dim - 2)))


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """Return 0.1 m ln(s) + 1: arXiv:2309.00071, equation 22 (with DeepSeek's m)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def longrope_attention_factor(factor: float, original: int) -> float:
    """Return sqrt(1 + ln s / ln L0): arXiv:2402.13753, section 3.3, and Phi-3's published code."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def _yarn(
    p: Mapping[str, Any], plain: list[float], dim: int, max_position_embeddings: int
) -> Frequencies:
    """Compute NTK-by-parts: arXiv:2309.00071, section 3.2.

    The ramp is over the dimension's index, as in the authors' published code; the paper writes it
    over rotations.
    """
    theta = float(p["rope_theta"])
    original = int(p["original_max_position_embeddings"])
    factor = float(p.get("factor") or max_position_embeddings / original)

    def index_of(rotations: float) -> float:
        """Return the dimension index that turns this often within the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = index_of(p.get("beta_fast") or 32.0)
    high = index_of(p.get("beta_slow") or 1.0)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = (high - low) or 0.001
    inverse = []
    for i, f in enumerate(plain):
        interpolated = min(max((i - low) / width, 0.0), 1.0)
        inverse.append(f / factor * interpolated + f * (1 - interpolated))

    attention = p.get("attention_factor")
    if attention is None and p.get("mscale") and p.get("mscale_all_dim"):
        attention = yarn_attention_factor(factor, p["mscale"]) / yarn_attention_factor(
            factor, p["mscale_all_dim"]
        )
    elif attention is None:
        attention = yarn_attention_factor(factor)
    return Frequencies(inverse, float(attention))


def _llama3(p: Mapping[str, Any], frequency: float) -> float:
    """Apply Meta's rule for Llama 3.1 (arXiv:2407.21783): by wavelength, in three zones."""
    factor, original = float(p["factor"]), float(p["original_max_position_embeddings"])
    low, high = float(p["low_freq_factor"]), float(p["high_freq_factor"])
    wavelength = 2 * math.pi / frequency
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / factor
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def _longrope(
    p: Mapping[str, Any], plain: list[float], max_position_embeddings: int
) -> Frequencies:
    original = int(p["original_max_position_embeddings"])
    factor = float(p.get("factor") or max_position_embeddings / original)
    attention = p.get("attention_factor")
    if attention is None:
        attention = longrope_attention_factor(factor, original)
    inverse = [f / divisor for f, divisor in zip(plain, p["short_factor"], strict=True)]
    return Frequencies(inverse, float(attention))


def _proportional(p: Mapping[str, Any], plain: list[float], dim: int) -> list[float]:
    """Let the first share of the frequencies turn and the rest stand still: Gemma 4."""
    turning = int(float(p.get("partial_rotary_factor", 1.0)) * dim // 2)
    factor = float(p.get("factor", 1.0))
    return [f / factor if i < turning else 0.0 for i, f in enumerate(plain)]
