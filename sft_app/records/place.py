"""Where the settings of a rung of successive halving stand among each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a setting came to on a rung."""

    rank: int
    """From 1, the best."""
    entered: int
    """Settings on this rung, those that failed included."""
    kept: int
    """As many go on to the next one."""
    measured: str
    """By what they are ranked, and this one's value: `perplexity at 384 tokens: 12.3`."""

    @property
    def goes_on(self) -> bool:
        """Tell whether the next rung is run."""
        return self.rank <= self.kept


Judge = Callable[[Path, int], Mapping[str, Place]]
"""From a sweep's folder and the number of a rung to the places of its cells, by name. A cell that
did not complete, or measured nothing, has none, and loses."""
