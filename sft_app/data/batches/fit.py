"""Examples longer than the context: dropped, truncated or split, and each lost token counted."""

from collections import Counter
from dataclasses import dataclass

from sft_app.config.schema.data import Overlong
from sft_app.data.chat.spans import Break
from sft_app.data.chat.tokenize import TokenSpan


@dataclass(frozen=True, slots=True)
class Chunk:
    """Name tokens [start, stop) of an example, after a copy of its first `opening` tokens."""

    start: int
    stop: int
    opening: int = 0

    @property
    def length(self) -> int:
        """Count the tokens, the copied ones included."""
        return self.opening + self.stop - self.start

    def place(self, start: int, stop: int) -> range:
        """Return where in this chunk tokens [start, stop) of the example can be supervised.

        Never at position 0: nothing comes before it, or in a packed row another document does.
        """
        shift = self.opening - self.start
        return range(max(max(start, self.start) + shift, 1), min(stop, self.stop) + shift)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Hold what one example becomes."""

    chunks: list[Chunk]
    lost: Counter[str]
    """Tokens that no chunk has, by reason."""


def fit(
    length: int,
    spans: list[TokenSpan],
    breaks: list[Break],
    opening: int,
    is_passage: bool,
    *,
    context_length: int,
    overlong: Overlong,
) -> Fitted:
    """Cut one example of `length` tokens into chunks of at most `context_length`.

    Every chunk carries at least one label that can be supervised (not only on its first token,
    which nothing predicts). A chunk never begins inside a turn, but in passages, which have none.
    """
    if length <= context_length:
        whole = Chunk(0, length)
        if _learnable(whole, spans):
            return Fitted([whole], Counter())
        return Fitted([], Counter(no_labels=length))
    if overlong is Overlong.drop:
        return Fitted([], Counter(dropped=length))
    if overlong is Overlong.truncate:
        return _truncate(Chunk(0, length), spans, context_length)
    if is_passage:
        return _split_anywhere(length, spans, context_length)
    return _split_at_breaks(length, spans, breaks, opening, context_length)


def _learnable(chunk: Chunk, spans: list[TokenSpan]) -> bool:
    first = chunk.start + (0 if chunk.opening else 1)
    return any(span.start < chunk.stop and span.stop > first for span in spans)


def _truncate(chunk: Chunk, spans: list[TokenSpan], context_length: int) -> Fitted:
    """Keep the beginning, up to the last label in it: tokens after that would teach nothing."""
    cut = chunk.stop - max(0, chunk.length - context_length)
    ends = [min(span.stop, cut) for span in spans if chunk.start <= span.start < cut]
    kept = Chunk(chunk.start, ends[-1] if ends else chunk.start, chunk.opening)
    if not _learnable(kept, spans):
        return Fitted([], Counter(no_labels=chunk.stop - chunk.start))
    return Fitted([kept], Counter(truncated=chunk.stop - kept.stop))


def _split_anywhere(length: int, spans: list[TokenSpan], context_length: int) -> Fitted:
    chunks: list[Chunk] = []
    lost: Counter[str] = Counter()
    for start in range(0, length, context_length):
        chunk = Chunk(start, min(start + context_length, length))
        if _learnable(chunk, spans):
            chunks.append(chunk)
        else:
            lost["no_labels"] += chunk.length
    return Fitted(chunks, lost)


def _split_at_breaks(
    length: int, spans: list[TokenSpan], breaks: list[Break], opening: int, context_length: int
) -> Fitted:
    """Fill each chunk with as many whole exchanges as fit; one that fits in none is truncated.

    The header of a question at which a chunk restarts is not lost: the opening ends with it.
    """
    starts = [0, *(b.restart for b in breaks)]
    stops = [*(b.stop for b in breaks), length]
    chunks: list[Chunk] = []
    lost: Counter[str] = Counter()
    first = 0
    while first < len(starts):
        start, copied = starts[first], opening if first else 0
        last = first
        while last + 1 < len(stops) and copied + stops[last + 1] - start <= context_length:
            last += 1
        chunk = Chunk(start, stops[last], copied)
        if chunk.length > context_length:
            cut = _truncate(chunk, spans, context_length)
            chunks += cut.chunks
            lost += cut.lost
        elif _learnable(chunk, spans):
            chunks.append(chunk)
        else:
            lost["no_labels"] += chunk.stop - chunk.start
        first = last + 1
    return Fitted(chunks, lost)
