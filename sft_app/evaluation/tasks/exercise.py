"""What a task asks, in words, before it is cut to a length."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""Token ids [T]."""


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A sentence that is put into the haystack."""

    depth: float
    """Where: 0 at the beginning, 1 at the end."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One question about a long text, and its answer.

    The answer is the references in the order that the question asks for, separated by commas, so
    that there is one right answer, which a forward can be forced through.
    """

    intro: str
    question: str
    answer_prefix: str
    """The beginning of the answer, given away."""
    references: tuple[str, ...]
    needles: tuple[Needle, ...] = ()
    fill: Callable[[int], Ids | None] | None = None
    """Makes the long text of exactly n tokens itself, None where n are too few; without it the text
    is the haystack with the needles in it."""
    depth: float | None = None
    """Of the needle that is asked for; None: there are several, or none."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An exercise of exactly `length` tokens, the answer inside."""

    input_ids: Ids
    """[length]: prompt, then answer."""
    prompt_length: int
    references: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    """Of each reference in `input_ids`: begin and end (exclusive)."""
    depth: float | None
