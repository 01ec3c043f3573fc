"""RopePlan: what will be done about positions, decided from the configuration alone."""

import copy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.compat import loading_and_saving
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.rope.decide_rotary import decide_rotary
from sft_app.loader.rope.decide_table import decide_table, decide_unlimited
from sft_app.loader.rope.drop_rope import decide_drop, dropped_config
from sft_app.loader.rope.legacy_keys import NO_WORDS, has_legacy_words
from sft_app.loader.rope.length_notes import (
    contradictions,
    published_advice,
    reader_warnings,
)
from sft_app.loader.rope.model_context import (
    AttentionWindows,
    ModelContext,
    attention_windows,
    read_context,
)
from sft_app.loader.rope.position_plan import PositionPlan
from sft_app.loader.rope.positions import PositionKind, Positions, detect_positions
from sft_app.loader.rope.verify_rope import check_honoured


@dataclass(frozen=True, kw_only=True)
class RopePlan:
    """Lengths are in tokens. Print it, or put `as_dict()` into plan.json."""

    model_type: str
    positions: PositionKind
    context_length: int
    """What was asked for."""
    original_context_length: int | None
    """The pre-training context, the base of every factor; None: no limit, or not stated."""
    original_context_source: str
    model_context_length: int | None
    """The model's effective context before anything is done; None: no limit."""
    effective_context_length: int | None
    """The same afterwards."""
    method: str
    """In force afterwards: a rope method, `none`, `extend_positions` or `not applicable`."""
    factor: float | None
    changed: bool
    reason: str
    rope_parameters: dict[str, Any] | None
    """Set on the text configuration before the model is built; None: not a rotary model."""
    max_position_embeddings: int | None
    """The same, and what is saved: the number that serving engines read or multiply."""
    other_updates: dict[str, Any] = field(default_factory=dict)
    rotary_dims: dict[str, int] = field(default_factory=dict)
    """Rotated dimensions of a head, by layer type."""
    table: str | None = None
    """Module of the learned position table."""
    table_offset: int = 0
    """Reserved rows before position 0 of that table."""
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return {**asdict(self), "positions": str(self.positions), "warnings": list(self.warnings)}

    @property
    def serving_length(self) -> int:
        """Return the tokens that the saved model should be served with."""
        return self.effective_context_length or self.context_length

    def __str__(self) -> str:
        """Return the lines that sft-plan and the log show."""

        def tokens(number: int | None) -> str:
            return "no limit" if number is None else f"{number:,} tokens"

        lines = [
            ("positions", f"{self.positions} ({self.model_type})"),
            ("wanted", tokens(self.context_length)),
            ("model has", f"{tokens(self.model_context_length)}"),
            (
                "trained with",
                f"{tokens(self.original_context_length)} ({self.original_context_source})",
            ),
            ("method", self.method + (f", factor {self.factor:g}" if self.factor else "")),
            ("because", self.reason),
            ("afterwards", tokens(self.effective_context_length)),
        ]
        if self.rope_parameters:
            lines.append(("rope_parameters", _shortened(self.rope_parameters)))
        if self.max_position_embeddings:
            lines.append(("saved as", f"max_position_embeddings={self.max_position_embeddings}"))
        lines += [(key, f"set to {value}") for key, value in self.other_updates.items()]
        lines += [("WARNING", warning) for warning in self.warnings]
        return "\n".join(f"{name:<16}{value}" for name, value in lines)


def plan_rope(
    config: PretrainedConfig,
    context_length: int,
    rope: RopeConfig,
    *,
    original_context_length: int | None = None,
    tokenizer_length: int | None = None,
) -> RopePlan:
    """Decide how the causal LM of `config` takes `context_length` tokens. `config` is not changed.

    `original_context_length` (model.original_context_length) overrides the configuration's word.
    `tokenizer_length` is what the checkpoint's tokenizer calls its longest input; where the two
    contradict each other, a warning says so.

    Raises ConfigError, naming the ways out, when the length cannot be had.
    """
    if context_length < 1:
        raise ConfigError(f"context_length: {context_length} must be at least 1 token.")
    if rope.factor is not None and rope.factor < 1:
        raise ConfigError(
            f"rope.factor: {rope.factor:g} would shorten the context; give 1 or more, or null to "
            "derive it."
        )
    config = loading_and_saving.without_quantization(copy.deepcopy(config))
    text = config.get_text_config(decoder=True)
    positions = detect_positions(config)
    windows = attention_windows(text)
    context = read_context(text, original=original_context_length)
    if positions.kind == PositionKind.rotary:
        if rope.method is RopeMethod.drope:
            position_plan = decide_drop(config, context, windows, context_length, rope)
        else:
            position_plan = decide_rotary(
                text, context, windows, positions.rotary_dims, context_length, rope
            )
        original, source = context.original, context.original_source
        effective = context.effective
    elif positions.kind in (PositionKind.alibi, PositionKind.none):
        position_plan = decide_unlimited(text, positions, context_length, rope)
        original, source, effective = None, "not applicable", None
    else:
        position_plan = decide_table(text, positions, context_length, rope)
        original = effective = positions.table_length or context.original
        source = f"size of {positions.table}"
    plan = RopePlan(
        model_type=text.model_type,
        positions=positions.kind,
        context_length=context_length,
        original_context_length=original,
        original_context_source=source,
        model_context_length=effective,
        effective_context_length=position_plan.effective,
        method=position_plan.method,
        factor=position_plan.factor,
        changed=position_plan.changed,
        reason=position_plan.reason,
        rope_parameters=position_plan.rope_parameters,
        max_position_embeddings=position_plan.max_position_embeddings,
        other_updates={**_other_lengths(text, position_plan), **position_plan.other_updates},
        rotary_dims=positions.rotary_dims,
        table=positions.table,
        table_offset=positions.table_offset,
        warnings=(
            position_plan.warnings
            + _unused_settings(rope, original_context_length, positions, position_plan)
            + _window_warnings(windows, context_length)
            + _longrope_warnings(position_plan, context, context_length)
            + contradictions(context, tokenizer_length)
            + published_advice(text, context, context_length)
            + reader_warnings(position_plan, context)
        ),
    )
    config = planned_config(config, plan)
    if plan.method != "drope":
        check_honoured(config, positions, plan.method, changed=plan.changed)
    if plan.rope_parameters is not None and not has_legacy_words(config):
        plan = replace(plan, warnings=(*plan.warnings, NO_WORDS))
    return plan


def planned_config(config: PretrainedConfig, plan: RopePlan) -> PretrainedConfig:
    """Return the configuration that the plan's model is built from; `config` is not changed."""
    config = dropped_config(config) if plan.method == "drope" else copy.deepcopy(config)
    text = config.get_text_config(decoder=True)
    if plan.rope_parameters is not None:
        text.rope_parameters = copy.deepcopy(plan.rope_parameters)
    if plan.max_position_embeddings is not None:
        text.max_position_embeddings = plan.max_position_embeddings
    for name, value in plan.other_updates.items():
        setattr(text, name, value)
    return config


def _other_lengths(text: PretrainedConfig, position_plan: PositionPlan) -> dict[str, Any]:
    """Make notes of the length under other names (Vicuna-16k: max_sequence_length) agree, too.

    vLLM takes the smallest, SGLang the first, and both multiply it. Only names that the
    architecture itself does not know are touched.
    """
    length = position_plan.max_position_embeddings
    if position_plan.rope_parameters is None or length is None:
        return {}
    names = ("max_sequence_length", "max_seq_len", "model_max_length", "seq_length")
    return {
        name: length
        for name in names
        if isinstance(vars(text).get(name), int) and not hasattr(type(text), name)
    }


def _unused_settings(
    rope: RopeConfig, original: int | None, positions: Positions, position_plan: PositionPlan
) -> tuple[str, ...]:
    """Name what was given and changes nothing for this model."""
    notes = []
    is_rotary = positions.kind is PositionKind.rotary
    if rope.method is RopeMethod.auto and rope.factor not in (None, position_plan.factor):
        way_out = "; name a method to apply it all the same (rope=linear)" if is_rotary else ""
        notes.append(
            f"rope.factor={rope.factor:g} is not applied: {position_plan.reason}{way_out}."
        )
    if original is not None and not is_rotary:
        notes.append(
            f"model.original_context_length={original} is not used: positions of kind "
            f"{positions.kind!s} are as long as they are."
        )
    return tuple(notes)


def _window_warnings(windows: AttentionWindows, length: int) -> tuple[str, ...]:
    if windows.size is None or windows.size >= length:
        return ()
    span = windows.size * windows.layers
    if windows.everywhere:
        return (
            f"every layer sees only the last {windows.size:,} tokens: further back reaches only "
            f"what {windows.layers} layers pass on, {span:,} tokens at the very most.",
        )
    return (
        f"{windows.windowed_layers} of {windows.layers} layers see only the last "
        f"{windows.size:,} tokens; the others see all {length:,}.",
    )


def _longrope_warnings(
    position_plan: PositionPlan, context: ModelContext, length: int
) -> tuple[str, ...]:
    if position_plan.method != "longrope" or context.original is None or length <= context.original:
        return ()
    return (
        f"longrope takes its short divisors for a batch within {context.original:,} positions and "
        "its long ones for any other: batches of both kinds are trained with different angles.",
    )


def _shortened(parameters: dict[str, Any]) -> str:
    """Return one line, in which longrope's lists do not fill the screen."""

    def short(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k}: {short(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list) and len(value) > 4:
            return f"[{value[0]:g} .. {value[-1]:g}, {len(value)} numbers]"
        return str(value)

    return short(parameters)
