"""Parts of an example: what training sees of it in one document."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sft_app.data.chat.tokenize import TokenSpan


@dataclass(frozen=True, slots=True)
class Segment:
    """Name tokens [start, stop) of an example."""

    start: int
    stop: int
    supervised: bool = True
    """Whether they carry their labels here; what is repeated as context does not."""

    @property
    def length(self) -> int:
        """Count the tokens."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Chunk:
    """Put segments of one example after each other."""

    segments: tuple[Segment, ...]

    @property
    def length(self) -> int:
        """Count the tokens, the repeated ones included."""
        return sum(segment.length for segment in self.segments)

    def num_supervised(self, spans: Sequence[TokenSpan]) -> int:
        """Count the tokens that carry labels.

        Never the first: nothing comes before it, or in a packed row another document does.
        """
        count, at = 0, 0
        for segment in self.segments:
            first = segment.start + (1 if at == 0 else 0)
            if segment.supervised:
                count += sum(
                    max(0, min(span.stop, segment.stop) - max(span.start, first)) for span in spans
                )
            at += segment.length
        return count


@dataclass(slots=True)
class Fitted:
    """Hold what one example becomes."""

    chunks: list[Chunk]
    lost: Counter[str] = field(default_factory=Counter)
    """Tokens that no chunk has, by reason."""
    shortened: int = 0
    """Exchanges whose question, or what else stands before an answer, lost its middle."""
    continued: int = 0
    """Chunks that begin inside an answer."""

    def add(self, other: "Fitted") -> None:
        """Take over the chunks and counts of another part of the example."""
        self.chunks += other.chunks
        self.lost += other.lost
        self.shortened += other.shortened
        self.continued += other.continued
