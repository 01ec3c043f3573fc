"""Data statistics for people: what stands on the screen and in the log before training."""

from collections.abc import Mapping

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


def describe(statistics: DataStatistics) -> str:
    """Return the statistics as lines of text."""
    context = statistics.context_length
    lines = [*_read("data", statistics.train_read)]
    lines += _fit("training set", statistics.train, context)
    if statistics.eval_read is not None:
        lines += _read("held-out data", statistics.eval_read)
    if statistics.eval is not None:
        lines += _fit("held-out set", statistics.eval, context)
    lines += _lengths(statistics.lengths)
    lines += _packing(statistics.packing, context)
    return "\n".join(lines)


def _read(label: str, read: ReadStatistics) -> list[str]:
    formats = ", ".join(read.formats) or "no"
    lines = [f"{label:<16}{read.records:,} records, {read.conversations:,} used ({formats} format)"]
    if read.skipped:
        lines.append(f"{_INDENT}skipped: {_counts(read.skipped)}")
    if read.repaired:
        lines.append(f"{_INDENT}repaired: {_counts(read.repaired)}")
    return lines


def _fit(label: str, fit: FitStatistics, context_length: int) -> list[str]:
    share = fit.supervised_tokens / fit.used_tokens if fit.used_tokens else 0.0
    lines = [
        f"{label:<16}{fit.examples:,} examples, {fit.tokens:,} tokens; {fit.used_tokens:,} of them "
        f"used, {fit.supervised_tokens:,} supervised ({share:.1%}), in {fit.chunks:,} documents"
    ]
    if fit.overlong or fit.lost_tokens:
        lost = sum(fit.lost_tokens.values())
        reasons = f": {_counts(fit.lost_tokens)}" if lost else ""
        lines.append(
            f"{_INDENT}{fit.overlong:,} longer than {context_length:,}: {fit.split:,} split, "
            f"{fit.truncated:,} truncated, {fit.dropped:,} left out; "
            f"{lost:,} tokens lost ({lost / max(fit.tokens, 1):.1%}{reasons})"
        )
    return lines


def _lengths(lengths: LengthStatistics) -> list[str]:
    if not lengths.histogram:
        return []
    percentiles = ", ".join(
        f"{'longest' if name == '100' else f'p{name}'} {tokens:,}"
        for name, tokens in lengths.percentiles.items()
    )
    over = ", ".join(f"{_short(int(n))} {share:.1%}" for n, share in lengths.share_over.items())
    most = max(lengths.histogram.values())
    bars = [
        f"{_INDENT}{'<= ' + _short(int(bound)):>9} {count:>8,} {'#' * round(count / most * _BAR)}"
        for bound, count in lengths.histogram.items()
    ]
    return [
        f"{'lengths':<16}{percentiles} tokens",
        f"{_INDENT}longer than {over}",
        *(bar.rstrip() for bar in bars),
    ]


def _packing(packing: PackingStatistics, context_length: int) -> list[str]:
    if packing.packed:
        return [
            f"{'packing':<16}{packing.rows:,} rows of {context_length:,} tokens, "
            f"{packing.efficiency:.2%} of them real"
        ]
    return [
        f"{'packing':<16}off: {packing.rows:,} examples, {packing.efficiency:.2%} real tokens if "
        f"each were padded to {context_length:,}"
    ]


def _short(length: int) -> str:
    return f"{length // 1024}k" if length >= 1024 else str(length)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
