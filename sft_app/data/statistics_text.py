"""Data statistics for people: what sft-plan prints, and the counts on a run's screen."""

import math
from collections.abc import Mapping

from sft_app.common.counted import counted
from sft_app.data.parse.suggest_columns import BESIDE
from sft_app.data.statistics import (
    DataStatistics,
    FitStatistics,
    LengthStatistics,
    PackingStatistics,
    ReadStatistics,
)

_INDENT = " " * 16
_BAR = 40
"""Characters of the longest bar of the histogram."""
MOST_LOST = 0.1
"""Share of tokens; more of them lost is a warning."""
_NOTES = frozenset(BESIDE.split())
"""Keys about a record, and no part of what is said: in plan.json alone."""
MOST_KEYS = 8
"""Keys of records that are named among those that are not read."""
ENOUGH_KEPT = 0.99
"""Share of tokens that a context length keeps which is advised."""
LOST_TO_THE_LENGTH = ("dropped", "truncated", "shortened", "long_question")
"""Reasons of `lost_tokens` that a longer context would not know."""
FEW_EXAMPLES = 50
"""Fewer have no distribution worth a picture."""


def describe_statistics(statistics: DataStatistics) -> str:
    """Return the statistics as lines of text."""
    context = statistics.context_length
    lines = _block("data", read_counts(statistics.train_read))
    chosen = [*fit_counts(statistics.train, context), *choice_counts(statistics)]
    lines += _block("training set", chosen)
    if statistics.eval_read is not None:
        lines += _block("held-out data", read_counts(statistics.eval_read))
    if statistics.eval is not None:
        lines += _block(
            "held-out set", fit_counts(statistics.eval, statistics.eval_length or context)
        )
    lines += _lengths(statistics.lengths, statistics.train.examples)
    lines += _packing(statistics.packing, context)
    return "\n".join(lines)


def read_counts(read: ReadStatistics) -> list[str]:
    """Return how many records there were, what became of them, and how to look at them."""
    formats = ", ".join(read.formats) or "no"
    lines = [f"{counted(read.records, 'record')}, {read.conversations:,} used ({formats} format)"]
    if read.skipped:
        lines.append(
            f"{sum(read.skipped.values()):,} skipped: {_counts(read.skipped)} "
            "(data.on_bad_record=error stops at the first)"
        )
        lines += [f"the first: {message}" for message in read.examples_of_skipped[:1]]
    if read.not_rendered:
        lines.append(
            f"not rendered by the chat template: {_counts(read.not_rendered)} "
            "(tokenizer.chat_template can name one that does)"
        )
    if read.columns_not_found:
        lines.append(f"no record has what data.columns names: {', '.join(read.columns_not_found)}")
    said = {k: n for k, n in read.keys_not_read.items() if k.rpartition(".")[2] not in _NOTES}
    if said:
        most = sorted(said.items(), key=lambda item: (-item[1], item[0]))
        names = ", ".join(name for name, _ in most[:MOST_KEYS])
        more = f" and {len(most) - MOST_KEYS:,} more" if len(most) > MOST_KEYS else ""
        lines.append(f"not read: {names}{more} (data.columns says which column is which)")
    if read.ignored_files:
        lines.append(f"files that are no data: {_counts(read.ignored_files)}")
    if read.repaired:
        lines.append(f"repaired: {_counts(read.repaired)} (sft-plan data.preview=3 shows examples)")
    return lines


def fit_counts(fit: FitStatistics, context_length: int) -> list[str]:
    """Return tokens and what was kept of them, so that every sum can be checked by hand."""
    counts = counted(fit.conversations, "conversation")
    if fit.examples != fit.conversations:
        counts += f" in {counted(fit.examples, 'text')}"
    lines = [f"{counts}, {_token_sum(fit)}"]
    shortened = fit.truncated - fit.split_and_truncated
    too_long = fit.overlong - fit.split - shortened
    if fit.overlong:
        split = f"{fit.split:,} split"
        if fit.split_and_truncated:
            split += f" ({fit.split_and_truncated:,} of them shortened too)"
        parts = [
            (fit.split, split),
            (shortened, f"{shortened:,} shortened"),
            (too_long, f"{too_long:,} left out"),
        ]
        how = ", ".join(text for count, text in parts if count)
        lines.append(f"{fit.overlong:,} longer than {context_length:,} tokens: {how}")
    if fit.shortened_questions:
        one, more = "question lost its middle to its answer", "questions lost their middle to"
        lines.append(counted(fit.shortened_questions, one, f"{more} their answers"))
    if fit.continued_answers:
        goes_on = counted(fit.continued_answers, "document goes", "documents go")
        lines.append(f"{goes_on} on with an answer longer than a row")
    if fit.lost_labels:
        lines.append(f"{counted(fit.lost_labels, 'label')} lost with them")
    if fit.dropped > too_long:
        lines.append(f"{fit.dropped - too_long:,} left out: nothing in them is supervised")
    return lines


def choice_counts(statistics: DataStatistics) -> list[str]:
    """Return which conversations are not trained on though they were read, and which are twice."""
    counts = (
        (statistics.not_chosen, "not chosen (data.max_examples, weights below 1)"),
        (statistics.copies_of_held_out, "left out: copies of held-out conversations"),
        (statistics.eval_in_train, "of data.eval are trained on, too"),
    )
    return [f"{count:,} {text}" for count, text in counts if count]


def loss_warning(statistics: DataStatistics) -> str | None:
    """Return a sentence, with the context length that keeps them, where many tokens are lost.

    None where a tenth of the training set's tokens at most are beyond the context length.
    """
    fit, lengths = statistics.train, statistics.lengths
    lost = sum(fit.lost_tokens.get(reason, 0) for reason in LOST_TO_THE_LENGTH)
    if lost <= MOST_LOST * fit.tokens:
        return None
    longer = {
        int(length): share
        for length, share in lengths.tokens_within.items()
        if int(length) > statistics.context_length
    }
    enough = min((n for n, share in longer.items() if share >= ENOUGH_KEPT), default=None)
    remedy = f"the longest conversation has {lengths.percentiles['100']:,}"
    if enough is not None:
        remedy = f"context_length={enough} would keep {math.floor(100 * longer[enough])}%"
    return (
        f"{lost / fit.tokens:.0%} of the tokens are lost to context_length="
        f"{statistics.context_length} ({lost:,} of {fit.tokens:,}): {remedy}."
    )


def _token_sum(fit: FitStatistics) -> str:
    """`13,554 tokens - 154 lost (1.1%) + 201 repeated where conversations are split = ...`."""
    lost = sum(fit.lost_tokens.values())
    repeated = fit.used_tokens - (fit.tokens - lost)
    text = f"{fit.tokens:,} tokens"
    if lost:
        text += f" - {lost:,} lost ({lost / max(fit.tokens, 1):.1%})"
    if repeated:
        text += f" + {repeated:,} repeated where conversations are split"
    if lost or repeated:
        text += f" = {fit.used_tokens:,}"
    share = fit.supervised_tokens / fit.used_tokens if fit.used_tokens else 0.0
    return f"{text}; {fit.supervised_tokens:,} supervised ({share:.1%})"


def _block(label: str, lines: list[str]) -> list[str]:
    return [f"{label:<16}{lines[0]}", *(f"{_INDENT}{line}" for line in lines[1:])]


def _lengths(lengths: LengthStatistics, num_examples: int) -> list[str]:
    if not lengths.histogram:
        return []
    percentiles = ", ".join(
        f"{'longest' if name == '100' else f'p{name}'} {tokens:,}"
        for name, tokens in lengths.percentiles.items()
    )
    if num_examples < FEW_EXAMPLES:
        return [f"{'lengths':<16}longest {lengths.percentiles['100']:,} tokens"]
    longer = {int(n): share for n, share in lengths.share_over.items() if share > 0}
    over = ", ".join(f"{_short(n)} {share:.1%}" for n, share in longer.items())
    most = max(lengths.histogram.values())
    bars = [
        f"{_INDENT}{'<= ' + _short(int(bound)):>9} {count:>8,} {'#' * round(count / most * _BAR)}"
        for bound, count in lengths.histogram.items()
    ]
    return [
        f"{'lengths':<16}{percentiles} tokens",
        *([f"{_INDENT}longer than {over}"] if over else []),
        *(bar.rstrip() for bar in bars),
    ]


def _packing(packing: PackingStatistics, context_length: int) -> list[str]:
    if packing.packed:
        return [
            f"{'packing':<16}{counted(packing.rows, 'row')} of {context_length:,} tokens, "
            f"{packing.efficiency:.2%} of them real"
        ]
    return [
        f"{'packing':<16}off: {counted(packing.rows, 'example')}, "
        f"{packing.efficiency:.2%} real tokens if "
        f"each were padded to {context_length:,}"
    ]


def _short(length: int) -> str:
    return f"{length // 1024}k" if length >= 1024 else str(length)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
