"""What a run says before it trains: decisions where something was decided, counts that add up.

The whole plans stand in train.log, in plan.json and in what sft-plan prints.
"""

from sft_app.common.counted import counted
from sft_app.config.schema.app import AppConfig
from sft_app.data.statistics import DataStatistics, FitStatistics, ReadStatistics
from sft_app.data.statistics_text import choice_counts, fit_counts, read_counts
from sft_app.training.model_plan import ModelPlans

WIDTH = 16
"""Columns of the label."""


def plan_lines(plans: ModelPlans) -> list[str]:
    """Return positions, tokenizer, attention, precision and memory, a line each at most."""
    rope, tokenizer = plans.rope, plans.tokenizer_plan
    lines = [("context", rope.reason)]
    decided = []
    if tokenizer.pad_reason != "the tokenizer's own":
        decided.append(f"pad token {tokenizer.pad_token!r} ({tokenizer.pad_reason})")
    if tokenizer.added_tokens:
        decided.append(f"new tokens {', '.join(map(repr, tokenizer.added_tokens))}")
    if tokenizer.chat_template != "the tokenizer's own":
        decided.append(f"chat template {tokenizer.chat_template}")
    if decided:
        lines.append(("tokenizer", "; ".join(decided)))
    lines.append(("memory", f"about {size(plans.memory.total)} per process"))
    shown = [f"{label:<{WIDTH}}{text}" for label, text in lines]
    # In the words of the plan itself: a later stage that confirms it is not shown again.
    shown.append(str(plans.attention))
    if len({plans.precision.parameters, plans.precision.compute, plans.precision.saved}) > 1:
        shown.append(str(plans.precision))
    return shown


def size(num_bytes: int) -> str:
    """Return a number of bytes in MiB, or from one of them on in GiB, with three digits."""
    gib = num_bytes / 2**30
    return f"{gib:.3g} GiB" if gib >= 1 else f"{max(1, round(num_bytes / 2**20))} MiB"


def warnings_of(plans: ModelPlans) -> list[str]:
    """Return what the plans warn of."""
    return [*plans.rope.warnings, *plans.tokenizer_plan.warnings]


def data_lines(config: AppConfig, statistics: DataStatistics) -> list[str]:
    """Return what was read, what is trained on and what is held out."""
    eval_length = statistics.eval_length or statistics.context_length
    lines = [f"{'data':<{WIDTH}}{config.data.train}"]
    lines += _data("records", statistics.train_read, statistics.train, statistics.context_length)
    lines += [" " * WIDTH + line for line in choice_counts(statistics)]
    if statistics.eval_read is not None and statistics.eval is not None:
        lines += _data("held-out data", statistics.eval_read, statistics.eval, eval_length)
    elif statistics.eval is not None:
        counts = fit_counts(statistics.eval, eval_length)
        lines.append(f"{'held out':<{WIDTH}}{counts[0]}")
    packing = statistics.packing
    if packing.packed:
        lines.append(
            f"{'packing':<{WIDTH}}{counted(packing.rows, 'row')} of "
            f"{statistics.context_length:,} tokens, "
            f"{packing.efficiency:.1%} of them real"
        )
    return lines


def _data(label: str, read: ReadStatistics, fit: FitStatistics, context_length: int) -> list[str]:
    first, *more = [*read_counts(read), *fit_counts(fit, context_length)]
    return [f"{label:<{WIDTH}}{first}", *(" " * WIDTH + line for line in more)]
