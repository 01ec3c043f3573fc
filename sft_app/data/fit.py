"""Examples longer than the context: dropped, truncated or split, and each lost token counted."""

from collections import Counter
from dataclasses import dataclass

from sft_app.config.data import Overlong
from sft_app.data.tokenize import TokenSpan


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [start, stop) of an example, after a copy of its first `system` tokens."""

    start: int
    stop: int
    system: int = 0

    @property
    def length(self) -> int:
        return self.system + self.stop - self.start


@dataclass(frozen=True, slots=True)
class Fitted:
    pieces: list[Piece]
    lost: Counter[str]
    """Tokens that no piece has, by reason."""


def fit(
    length: int,
    spans: list[TokenSpan],
    exchanges: list[int],
    system: int,
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
        return _truncate(0, length, 0, spans, context_length)
    if is_passage:
        return _split_anywhere(length, spans, context_length)
    return _split_at_exchanges(length, spans, exchanges, system, context_length)


def _learnable(piece: Piece, spans: list[TokenSpan]) -> bool:
    first = piece.start + (0 if piece.system else 1)
    return any(span.start < piece.stop and span.stop > first for span in spans)


def _truncate(
    start: int, stop: int, system: int, spans: list[TokenSpan], context_length: int
) -> Fitted:
    """Keep the beginning, up to the last label in it: tokens after that would teach nothing."""
    room = start + context_length - system
    cut = min(room, stop)
    ends = [min(span.stop, cut) for span in spans if start <= span.start < cut]
    piece = Piece(start, ends[-1] if ends else start, system)
    if not ends or not _learnable(piece, spans):
        return Fitted([], Counter(no_labels=stop - start))
    return Fitted([piece], Counter(truncated=stop - piece.stop))


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


def _split_at_exchanges(
    length: int, spans: list[TokenSpan], exchanges: list[int], system: int, context_length: int
) -> Fitted:
    """Fill each piece with as many whole exchanges as fit; one that fits in none is truncated."""
    bounds = [0, *exchanges, length]
    pieces: list[Piece] = []
    lost: Counter[str] = Counter()
    first = 0
    while first < len(bounds) - 1:
        start = bounds[first]
        prefix = system if start else 0
        last = first + 1
        while last + 1 < len(bounds) and prefix + bounds[last + 1] - start <= context_length:
            last += 1
        piece = Piece(start, bounds[last], prefix)
        if piece.length > context_length:
            cut = _truncate(start, bounds[last], prefix, spans, context_length)
            pieces += cut.pieces
            lost += cut.lost
        elif _learnable(piece, spans):
            pieces.append(piece)
        else:
            lost["no_labels"] += bounds[last] - start
        first = last
    return Fitted(pieces, lost)
