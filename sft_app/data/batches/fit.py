"""Examples longer than the context: dropped, truncated or split, and each lost token counted."""

from collections import Counter
from dataclasses import dataclass

from sft_app.config.schema.data import Overlong, OverlongQuestion
from sft_app.data.batches.long_exchange import split_exchange
from sft_app.data.batches.segments import Chunk, Fitted, Segment
from sft_app.data.chat.spans import Exchange
from sft_app.data.chat.tokenize import TokenSpan


@dataclass(frozen=True, slots=True)
class Shape:
    """Hold what fitting needs to know of an example, in tokens."""

    length: int
    spans: list[TokenSpan]
    exchanges: list[Exchange]
    is_passage: bool = False


def fit(
    shape: Shape, *, context_length: int, overlong: Overlong, question: OverlongQuestion
) -> Fitted:
    """Cut one example into chunks of at most `context_length` tokens.

    Every chunk carries at least one label that can be predicted (not only on its first token, which
    nothing precedes). No label is in two chunks, and with `overlong=split`, `question=keep_ends`
    none is lost.
    """
    length, spans = shape.length, shape.spans
    if length <= context_length:
        whole = Chunk((Segment(0, length),))
        if whole.num_supervised(spans):
            return Fitted([whole])
        return Fitted([], Counter(no_labels=length))
    if overlong is Overlong.drop:
        return Fitted([], Counter(dropped=length))
    if overlong is Overlong.truncate:
        return _truncate(length, spans, context_length)
    if shape.is_passage and all(span.start <= 1 for span in spans):
        return _split_anywhere(length, spans, context_length)
    return _split_at_questions(shape, context_length, question)


def _truncate(length: int, spans: list[TokenSpan], context_length: int) -> Fitted:
    """Keep the beginning, up to the last label in it: tokens after that would teach nothing."""
    ends = [min(span.stop, context_length) for span in spans if span.start < context_length]
    kept = Chunk((Segment(0, ends[-1] if ends else 0),))
    if not kept.num_supervised(spans):
        return Fitted([], Counter(no_labels=length))
    return Fitted([kept], Counter(truncated=length - kept.length))


def _split_anywhere(length: int, spans: list[TokenSpan], context_length: int) -> Fitted:
    """Chunks that begin with the last token of the one before: it predicts the first new one."""
    chunks: list[Chunk] = []
    lost: Counter[str] = Counter()
    start = 0
    while start < length:
        overlap = 1 if start else 0
        stop = min(start + context_length - overlap, length)
        before = (Segment(start - 1, start, supervised=False),) if start else ()
        chunk = Chunk((*before, Segment(start, stop)))
        if chunk.num_supervised(spans):
            chunks.append(chunk)
        else:
            lost["no_labels"] += stop - start
        start = stop
    return Fitted(chunks, lost)


def _split_at_questions(shape: Shape, context_length: int, question: OverlongQuestion) -> Fitted:
    """Fill each chunk with as many whole exchanges as fit behind the prefix.

    An exchange that fits in none is spread over chunks of its own (`long_exchange`). The header of
    a question at which a chunk begins is not lost: the prefix ends with one.
    """
    exchanges = shape.exchanges
    if not exchanges:
        first_label = min((span.start for span in shape.spans), default=0)
        exchanges = [Exchange(0, first_label, shape.length)]
    prefix = exchanges[0].start
    result = Fitted([])
    first = 0
    while first < len(exchanges):
        start, last = exchanges[first].start, first
        while last + 1 < len(exchanges) and (
            prefix + exchanges[last + 1].stop - start <= context_length
        ):
            last += 1
        stop = exchanges[last].stop
        inside = [s for s in shape.spans if s.start < stop and s.stop > start]
        if not inside:
            result.lost["no_labels"] += stop - start
        elif prefix + stop - start <= context_length:
            result.chunks.append(
                Chunk((Segment(0, prefix, supervised=False), Segment(start, stop)))
            )
        else:
            result.add(split_exchange(prefix, exchanges[first], inside, context_length, question))
        first = last + 1
    seen = max((s.stop for c in result.chunks for s in c.segments if not s.start), default=0)
    result.lost["shortened" if result.chunks else "no_labels"] += prefix - min(seen, prefix)
    result.lost += Counter()  # drops what is 0
    return result
