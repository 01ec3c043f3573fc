"""Examples longer than the context: dropped, truncated or split, and each lost token counted."""

from collections import Counter
from dataclasses import dataclass

from sft_app.config.schema.data import Overlong
from sft_app.data.chat.spans import Break
from sft_app.data.chat.tokenize import TokenSpan


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [start, stop) of an example, after a copy of its first `opening` tokens."""

    start: int
    stop: int
    opening: int = 0

    @property
    def length(self) -> int:
        return self.opening + self.stop - self.start

    def place(self, start: int, stop: int) -> range:
        """Where in this piece tokens [start, stop) of the example can be learned.

        Never at position 0: nothing comes before it, or in a packed row another document does.
        """
        shift = self.opening - self.start
        return range(max(max(start, self.start) + shift, 1), min(stop, self.stop) + shift)


@dataclass(frozen=True, slots=True)
class Fitted:
    pieces: list[Piece]
    lost: Counter[str]
    """Tokens that no piece has, by reason."""


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
    """Cut one example of `length` tokens into pieces of at most `context_length`.

    Every piece carries at least one label that can be learned (not only on its first token, which
    nothing predicts). A piece never begins inside a turn, except in passages, which have none.
    """
    if length <= context_length:
        whole = Piece(0, length)
        if _learnable(whole, spans):
            return Fitted([whole], Counter())
        return Fitted([], Counter(no_labels=length))
    if overlong is Overlong.drop:
        return Fitted([], Counter(dropped=length))
    if overlong is Overlong.truncate:
        return _truncate(Piece(0, length), spans, context_length)
    if is_passage:
        return _split_anywhere(length, spans, context_length)
    return _split_at_breaks(length, spans, breaks, opening, context_length)


def _learnable(piece: Piece, spans: list[TokenSpan]) -> bool:
    first = piece.start + (0 if piece.opening else 1)
    return any(span.start < piece.stop and span.stop > first for span in spans)


def _truncate(piece: Piece, spans: list[TokenSpan], context_length: int) -> Fitted:
    """Keep the beginning, up to the last label in it: tokens after that would teach nothing."""
    cut = piece.stop - max(0, piece.length - context_length)
    ends = [min(span.stop, cut) for span in spans if piece.start <= span.start < cut]
    kept = Piece(piece.start, ends[-1] if ends else piece.start, piece.opening)
    if not _learnable(kept, spans):
        return Fitted([], Counter(no_labels=piece.stop - piece.start))
    return Fitted([kept], Counter(truncated=piece.stop - kept.stop))


def _split_anywhere(length: int, spans: list[TokenSpan], context_length: int) -> Fitted:
    pieces: list[Piece] = []
    lost: Counter[str] = Counter()
    for start in range(0, length, context_length):
        piece = Piece(start, min(start + context_length, length))
        if _learnable(piece, spans):
            pieces.append(piece)
        else:
            lost["no_labels"] += piece.length
    return Fitted(pieces, lost)


def _split_at_breaks(
    length: int, spans: list[TokenSpan], breaks: list[Break], opening: int, context_length: int
) -> Fitted:
    """Fill each piece with as many whole exchanges as fit; one that fits in none is truncated.

    The header of a question at which a piece restarts is not lost: the opening ends with it.
    """
    starts = [0, *(b.restart for b in breaks)]
    stops = [*(b.stop for b in breaks), length]
    pieces: list[Piece] = []
    lost: Counter[str] = Counter()
    first = 0
    while first < len(starts):
        start, copied = starts[first], opening if first else 0
        last = first
        while last + 1 < len(stops) and copied + stops[last + 1] - start <= context_length:
            last += 1
        piece = Piece(start, stops[last], copied)
        if piece.length > context_length:
            cut = _truncate(piece, spans, context_length)
            pieces += cut.pieces
            lost += cut.lost
        elif _learnable(piece, spans):
            pieces.append(piece)
        else:
            lost["no_labels"] += piece.stop - piece.start
        first = last + 1
    return Fitted(pieces, lost)
