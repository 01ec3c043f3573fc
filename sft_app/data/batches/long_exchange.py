"""A question and its answers that are longer than a row: spread over rows, no label lost.

Each row begins with the prefix (system prompt, tools), then comes what was said before the answer,
without its middle where that leaves too little room, and then the answer or a part of it. An answer
that goes on in a further row does so behind its last few tokens, which are repeated and not
supervised there: its first new token is predicted from what really stands before it.
"""

from sft_app.config.schema.data import OverlongQuestion
from sft_app.data.batches.segments import Chunk, Fitted, Segment
from sft_app.data.chat.spans import Exchange
from sft_app.data.chat.tokenize import TokenSpan

_MOST_REPEATED = 64
"""Tokens of an answer that are repeated where it goes on."""


def split_exchange(
    prefix: int,
    exchange: Exchange,
    spans: list[TokenSpan],
    context_length: int,
    question: OverlongQuestion,
) -> Fitted:
    """Return rows of at most `context_length` tokens that have every label of `spans` once.

    Args:
        prefix: tokens [0, prefix) that every row begins with; where they fill more than three
            quarters of it they are shortened as well.
        spans: those inside the exchange, in order.
        question: with `drop`, an answer whose question would have to be cut is left out, with
            those that follow it.
    """
    result = Fitted([])
    first, at = exchange.start, spans[0].start
    for span in spans:
        at = max(at, span.start)
        while at < span.stop:
            repeated = min(_MOST_REPEATED, context_length // 8, at - span.start)
            room = context_length - repeated - 1
            wanted = min(span.stop - at, room)
            context = _context(prefix, exchange, span.start, room, room + 1 - wanted)
            size = sum(segment.length for segment in context)
            is_cut = size < prefix + span.start - first
            if is_cut and question is OverlongQuestion.drop:
                lost = exchange.stop - first - _covered(result.chunks, exchange)
                result.lost["long_question"] += lost
                return result
            if not size and at:
                repeated = max(repeated, 1)
            stop = _last_label(spans, at, at + context_length - size - repeated)
            assert stop > at, "each row has room for a label"
            behind = Segment(at - repeated, at, supervised=False)
            result.chunks.append(Chunk((*context, behind, Segment(at, stop))))
            result.shortened += is_cut
            result.continued += at > span.start
            at = stop
    result.shortened = min(result.shortened, 1)
    result.lost["shortened"] += exchange.stop - first - _covered(result.chunks, exchange)
    return result


def _context(prefix: int, exchange: Exchange, stop: int, most: int, enough: int) -> list[Segment]:
    """The prefix and what stands before an answer at `stop`, cut where the answer needs the room.

    `most` tokens leave room for one label, `enough` for the whole answer. Context gets at least
    half of a row, and at least an eighth behind a prefix that is not too long itself.
    """
    first = exchange.start
    needed = prefix + stop - first
    fair = most // 2 if prefix > most * 3 // 4 else max(most // 2, prefix + most // 8)
    room = min(max(enough, fair, 1), most)
    excess = needed - room
    whole = [Segment(0, prefix, supervised=False), Segment(first, stop, supervised=False)]
    if excess <= 0:
        return whole
    question = (first, min(exchange.question_stop, stop))
    for start, end in (question, (first, stop)):
        if end - start > excess + most // 16:
            kept = end - start - excess
            head, tail = start + (kept + 1) // 2, end - kept // 2
            return [
                whole[0],
                Segment(first, head, supervised=False),
                Segment(tail, stop, supervised=False),
            ]
    return _ends(prefix, first, stop, room)


def _ends(prefix: int, first: int, stop: int, room: int) -> list[Segment]:
    """The first and the last tokens of prefix and context together."""
    tail = min((room + 1) // 2, stop - first)
    head = room - tail
    return [
        Segment(0, min(head, prefix), supervised=False),
        Segment(first, first + max(0, head - prefix), supervised=False),
        Segment(stop - tail, stop, supervised=False),
    ]


def _last_label(spans: list[TokenSpan], at: int, stop: int) -> int:
    """The end of the last label before `stop`: tokens after that would teach nothing."""
    return max(min(span.stop, stop) for span in spans if at < span.stop and span.start < stop)


def _covered(chunks: list[Chunk], exchange: Exchange) -> int:
    """How many tokens of the exchange stand in some chunk."""
    parts = sorted(
        (max(s.start, exchange.start), s.stop)
        for chunk in chunks
        for s in chunk.segments
        if s.stop > exchange.start
    )
    covered, at = 0, exchange.start
    for start, stop in parts:
        covered += max(0, stop - max(start, at))
        at = max(at, stop)
    return covered
