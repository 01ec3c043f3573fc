"""What is known about the data before training starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

USUAL_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
PERCENTILES = (1, 10, 25, 50, 75, 90, 95, 99, 100)


@dataclass(kw_only=True)
class ReadStatistics:
    """Count what became of the records of `data.train` or `data.eval`."""

    records: int = 0
    """Records seen, broken ones included."""
    conversations: int = 0
    """Records that became conversations."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Records that could not be read, by reason."""
    repaired: dict[str, int] = field(default_factory=dict)
    """Conversations that a policy of `repair` changed or left out, by policy."""
    not_rendered: dict[str, int] = field(default_factory=dict)
    """Conversations whose chat template leaves out some of their content, by what it leaves out."""
    ignored_files: dict[str, int] = field(default_factory=dict)
    """Files of folders that are no data (hidden ones, licences), by kind."""
    formats: dict[str, int] = field(default_factory=dict)
    """Records by detected format."""
    examples_of_skipped: list[str] = field(default_factory=list)
    """The first few messages about skipped records."""
    columns_not_found: list[str] = field(default_factory=list)
    """Names of `data.columns` that no record has, and no turn."""
    keys_not_read: dict[str, int] = field(default_factory=dict)
    """Records, and turns (`turns.KEY`), that say something under a key that is not read."""


@dataclass(kw_only=True)
class LengthStatistics:
    """Hold lengths in tokens of whole examples, before they are fitted to the context."""

    percentiles: dict[str, int] = field(default_factory=dict)
    histogram: dict[str, int] = field(default_factory=dict)
    """Examples by upper bound of their length, powers of two."""
    share_over: dict[str, float] = field(default_factory=dict)
    """Share of the examples longer than each usual context length."""
    tokens_within: dict[str, float] = field(default_factory=dict)
    """Share of all tokens that stand within each usual context length of their examples."""


@dataclass(kw_only=True)
class FitStatistics:
    """Count what became of examples when they were fitted to the context."""

    conversations: int = 0
    """Conversations, or documents, before fitting."""
    examples: int = 0
    """The texts that they became: several, where a template tells the history otherwise later."""
    tokens: int = 0
    """Their tokens."""
    overlong: int = 0
    """Examples longer than the context."""
    dropped: int = 0
    """Examples of which nothing is used."""
    truncated: int = 0
    """Examples of which an end is missing."""
    split: int = 0
    """Examples used in more than one chunk."""
    split_and_truncated: int = 0
    """Of these, the ones that lose an end as well: `truncated` counts them, too."""
    chunks: int = 0
    """Documents that training sees."""
    used_tokens: int = 0
    """Tokens of these, with what is repeated where they are split."""
    supervised_tokens: int = 0
    lost_labels: int = 0
    """Tokens of whole examples that would be supervised and are not."""
    shortened_questions: int = 0
    """Questions (or what else stands before an answer) that lost their middle, so that the answer
    keeps its labels."""
    continued_answers: int = 0
    """Documents that begin inside an answer too long for one row."""
    lost_tokens: dict[str, int] = field(default_factory=dict)
    """Tokens that no document has, by reason: dropped (overlong), truncated (the end of an
    example), shortened (the middle of a question), long_question (left out with its answers),
    no_labels (nothing to learn from)."""
    weighted: bool = False
    """Some message has a loss weight other than 1."""


@dataclass(kw_only=True)
class PackingStatistics:
    """Say how well the rows are filled."""

    packed: bool
    rows: int = 0
    """Packed rows, or examples when packing is off."""
    padding_tokens: int = 0
    efficiency: float = 0.0
    """Share of real tokens in the rows; without packing, if each were padded to the context."""


@dataclass(kw_only=True)
class DataStatistics:
    """Hold everything that is known about the data before training."""

    context_length: int
    train_read: ReadStatistics
    eval_read: ReadStatistics | None
    """None when the held-out conversations are taken out of `data.train`."""
    lengths: LengthStatistics
    train: FitStatistics
    eval: FitStatistics | None
    packing: PackingStatistics
    not_chosen: int = 0
    """Conversations of `data.train` that `data.max_examples`, or a weight below 1, leaves out."""
    copies_of_held_out: int = 0
    """Conversations of `data.train` that are not trained on because they are held out as well."""
    eval_in_train: int = 0
    """Conversations of `data.eval` that stand in `data.train` too, and are trained on."""
    eval_length: int | None = None
    """Tokens to which the held-out conversations were fitted; None: `context_length`."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def add_counts(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts by name to plain dicts: `asdict` cannot copy Counters."""
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def length_statistics(lengths: np.ndarray) -> LengthStatistics:
    """Summarise lengths in tokens, int64 [N]."""
    if not len(lengths):
        return LengthStatistics()
    values = np.percentile(lengths, PERCENTILES, method="nearest")
    bounds = 2 ** np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    bound, count = np.unique(bounds, return_counts=True)
    return LengthStatistics(
        percentiles={str(p): int(v) for p, v in zip(PERCENTILES, values, strict=True)},
        histogram={str(b): int(c) for b, c in zip(bound, count, strict=True)},
        share_over={str(n): float((lengths > n).mean()) for n in USUAL_LENGTHS},
        tokens_within={
            str(n): float(np.minimum(lengths, n).sum() / max(1, lengths.sum()))
            for n in USUAL_LENGTHS
        },
    )
