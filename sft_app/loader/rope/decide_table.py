"""Models without rotary frequencies: position tables that end, and models without a limit."""

from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.rope.position_plan import PositionPlan
from sft_app.loader.rope.positions import PositionKind, Positions


def decide_table(
    text: PretrainedConfig, positions: Positions, length: int, rope: RopeConfig
) -> PositionPlan:
    """Plan for a table of positions: the length fits, or the table is interpolated, or refused.

    Raises ConfigError before any weight is read.
    """
    stated = getattr(text, "max_position_embeddings", None)
    limit = positions.table_length or stated
    if limit is None or length <= limit:
        return PositionPlan(
            method="none",
            changed=False,
            reason=f"{length} tokens fit the {positions.kind} of {limit} positions",
            effective=limit,
            max_position_embeddings=stated,
        )
    can_extend = positions.kind == PositionKind.learned and stated == limit
    if rope.method == RopeMethod.extend_positions and can_extend:
        return PositionPlan(
            method="extend_positions",
            changed=True,
            reason=f"the table of {limit} positions is interpolated to {length}",
            factor=length / limit,
            effective=length,
            max_position_embeddings=length,
            other_updates=_raised(text, ("n_ctx",), length),
            warnings=(
                "an interpolated position table needs fine-tuning before the model is any good: "
                "compare the evaluation before and after.",
            ),
        )
    ways = f"choose context_length={limit} or less"
    if can_extend:
        ways += ", or rope=extend_positions to interpolate the table"
    raise ConfigError(
        f"context_length: {length} exceeds the {positions.kind} of {text.model_type}, which ends "
        f"at {limit} positions and which rope.method={rope.method.value} cannot extend; {ways}."
    )


def decide_unlimited(
    text: PretrainedConfig, positions: Positions, length: int, rope: RopeConfig
) -> PositionPlan:
    """Plan for ALiBi and recurrence, which have no position that a model has not seen."""
    # Engines cap what they serve at these numbers, which limit nothing else (BLOOM: seq_length).
    served = getattr(text, "max_position_embeddings", None)
    lengths = _raised(text, ("max_seq_len", "seq_length", "max_sequence_length"), length)
    warnings = []
    # Without positions there is nothing to drop.
    has_dropped = positions.kind is PositionKind.none
    if rope.method not in (RopeMethod.auto, RopeMethod.none) and not (
        has_dropped and rope.method is RopeMethod.drope
    ):
        warnings.append(
            f"rope.method={rope.method.value} is not applicable: {text.model_type} has no rotary "
            "positions."
        )
    return PositionPlan(
        method="not applicable",
        # MPT builds its bias once, for max_seq_len keys; beyond, the shapes would not fit.
        changed="max_seq_len" in lengths,
        reason=f"positions of kind {positions.kind!s} set no limit to the length",
        effective=None,
        max_position_embeddings=length if isinstance(served, int) and served < length else None,
        other_updates=lengths,
        warnings=tuple(warnings),
    )


def _raised(text: PretrainedConfig, names: tuple[str, ...], length: int) -> dict[str, int]:
    """Return the lengths that are stated under these names and are shorter, as they are to be."""
    stated = {name: getattr(text, name, None) for name in names}
    return {n: length for n, old in stated.items() if isinstance(old, int) and old < length}
