"""At which context lengths a model is measured, and whether it can be."""

import logging
from dataclasses import dataclass

from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.loader.rope.model_context import attention_windows
from sft_app.loader.rope.positions import PositionKind
from sft_app.loader.rope.rope_plan import RopePlan

log = logging.getLogger(__name__)

SHORTEST = 16
"""Tokens: below this there is nothing to measure, unless it was asked for."""
UNLIMITED = (PositionKind.rotary, PositionKind.alibi, PositionKind.none)
"""Positions that go on beyond any length; how well is what is measured."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Context lengths in tokens, ascending."""

    values: tuple[int, ...]
    asked_for: bool
    """The user named them: each is measured, or is an error."""


def choose_lengths(config: AppConfig, rope: RopePlan, hf_config: PretrainedConfig) -> Lengths:
    """Return the lengths that `evaluation.lengths` names, or those that follow from the training.

    Raises ConfigError for a named length that the model cannot reach, and where
    `evaluation.max_times_context` leaves none.
    """
    named = sorted(set(config.evaluation.lengths))
    wanted = named or _derived(config, rope)
    times = config.evaluation.max_times_context
    if times is not None:
        wanted = [length for length in wanted if length <= times * config.target_length]
        if named and not wanted:
            raise ConfigError(
                f"evaluation.max_times_context={times}: every one of evaluation.lengths={named} is "
                f"above {times * config.target_length:,} tokens; set shorter lengths, or null."
            )
    reachable = []
    for length in wanted:
        obstacle = _obstacle(length, rope, hf_config)
        if obstacle is None:
            reachable.append(length)
        elif named:
            raise ConfigError(
                f"evaluation.lengths={named}: the model cannot read {length:,} tokens, for "
                f"{obstacle}; leave that length out."
            )
        else:
            log.info("evaluation      not at %s tokens: %s", f"{length:,}", obstacle)
    return Lengths(values=tuple(reachable), asked_for=bool(named))


def _derived(config: AppConfig, rope: RopePlan) -> list[int]:
    """The model's own window, the trained length and half of it, and twice it: beyond the training.

    The same for every job of a sweep, so that their numbers can be compared.
    """
    if config.sweep.lengths:
        return sorted({*config.sweep.lengths, 2 * max(config.sweep.lengths)})
    trained = config.target_length
    lengths = {trained // 2, trained, 2 * trained}
    original = rope.original_context_length
    lengths.add(original if original is not None and original < trained else trained // 4)
    return sorted(length for length in lengths if length >= SHORTEST)


def _obstacle(length: int, rope: RopePlan, hf_config: PretrainedConfig) -> str | None:
    limit = rope.effective_context_length
    if rope.positions not in UNLIMITED and limit is not None and length > limit:
        return f"its position table ends at {limit:,}"
    windows = attention_windows(hf_config.get_text_config(decoder=True))
    if windows.everywhere and windows.size is not None and windows.size * windows.layers < length:
        return (
            f"its {windows.layers} layers see {windows.size:,} tokens each, so that nothing from "
            f"further back than {windows.size * windows.layers:,} can arrive"
        )
    return None
