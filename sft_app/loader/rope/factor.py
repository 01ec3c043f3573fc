"""The factor of an extension: always against the original context, never on top of another one."""

import math
from dataclasses import dataclass

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import FactorRounding, RopeConfig, RopeMethod
from sft_app.loader.rope.base_bound import SOURCE, base_bound
from sft_app.loader.rope.model_context import ModelContext


@dataclass(frozen=True)
class Scaling:
    """A factor, and how far it reaches."""

    factor: float
    """As the rope parameters have it; 1 for abf, which has none."""
    effective: int
    """Tokens that the model can take with it."""
    how: str
    """In words."""


def choose_factor(
    context: ModelContext, method: RopeMethod, length: int, rope: RopeConfig
) -> Scaling:
    """Derive the factor that reaches `length` tokens: `rope.factor`, else the ratio L / L0.

    Raises ConfigError when the given factor is too small.
    """
    assert context.original is not None and context.effective is not None
    original = context.original
    if method == RopeMethod.abf:
        how = f"base frequency raised to rope.theta={rope.theta}"
        if rope.theta is None:
            how = (
                f"base frequency of at least {base_bound(length):,.0f} = 0.0424 * {length}^1.628 "
                f"({SOURCE})"
            )
        return Scaling(1.0, length, how)
    # Meta's factor is not the ratio of the lengths (8 on 8192 serves 131072): with llama3 over
    # llama3, context and factor grow in proportion.
    grows = method == RopeMethod.llama3 and context.rope_type == "llama3"
    reach = context.effective / (context.factor or 1.0) if grows else original
    if rope.factor is not None:
        effective = round(reach * rope.factor)
        if effective < length and not rope.force:
            raise ConfigError(
                f"rope.factor: {rope.factor:g} reaches {effective} tokens, less than "
                f"context_length={length}; use rope.factor={math.ceil(length / reach)}, or null to "
                "derive it."
            )
        return Scaling(rope.factor, effective, f"{method.value} with rope.factor={rope.factor:g}")
    if grows:
        own = context.factor or 1.0
        times = _rounded(length / context.effective, rope.factor_rounding)
        how = f"llama3 with factor {own * times:g} = the model's {own:g} * {times:g}"
        return Scaling(own * times, round(context.effective * times), how)
    factor = _rounded(length / original, rope.factor_rounding)
    ratio = f"{length} / {original}"
    if rope.factor_rounding == FactorRounding.ceil:
        ratio = f"ceil({ratio})"
    how = f"{method.value} with factor {factor:g} = {ratio}"
    return Scaling(factor, round(original * factor), how)


def _rounded(ratio: float, rounding: FactorRounding) -> float:
    return float(math.ceil(ratio)) if rounding == FactorRounding.ceil else float(ratio)
