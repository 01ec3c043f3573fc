"""Which conversations are held out and which are trained on: chosen by seed and content."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_MASK = (1 << 64) - 1


def rank(key: int, seed: int) -> int:
    """Return 64 pseudo-random bits of a content key and the seed (splitmix64's finaliser)."""
    x = (key ^ (seed * 0x9E3779B97F4A7C15)) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def copies(key: int, seed: int, weight: float) -> int:
    """Return how often a conversation of a source with this weight is used in an epoch."""
    whole = int(weight)
    chance = rank(key, seed ^ 0x5EED) / float(1 << 64)
    return whole + (chance < weight - whole)


def lowest(items: Iterable[tuple[int, T]], count: int) -> Iterator[T]:
    """Yield the `count` items of lowest rank, in the order they came, holding no more."""
    heap: list[tuple[int, int, T]] = []
    for number, (item_rank, item) in enumerate(items):
        entry = (-item_rank, -number, item)
        if len(heap) < count:
            heapq.heappush(heap, entry)
        elif count and entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)
    yield from (item for _, _, item in sorted(heap, key=lambda entry: -entry[1]))


@dataclass(frozen=True, slots=True)
class Choice:
    """Hold row numbers of a store."""

    train: np.ndarray
    """In the order of the files; a row stands here as often as its source's weight says."""
    eval: np.ndarray
    copies_of_held_out: int = 0
    """Conversations left out because an equal one is held out."""


def choose(
    conversation: np.ndarray,
    key: np.ndarray,
    weight: np.ndarray,
    *,
    seed: int,
    eval_examples: int,
    max_examples: int | None,
) -> Choice:
    """Split rows by the rank of their conversations' content.

    Args:
        conversation: [R] the conversation that each row comes from (rows of one are neighbours).
        key: [R] content key of that conversation.
        weight: [R] weight of its source.
        eval_examples: the conversations of lowest rank, held out; exact duplicates of them are
            left out of the training set.
        max_examples: at most this many conversations (with repeats by weight) after that.
    """
    _, first = np.unique(conversation, return_index=True)
    ranked = sorted((rank(int(key[row]), seed), int(conversation[row]), int(row)) for row in first)
    used = {row: copies(int(key[row]), seed, float(weight[row])) for _, _, row in ranked}
    ranked = [entry for entry in ranked if used[entry[2]] > 0]

    held_out = ranked[:eval_examples]
    held_out_ranks = {entry[0] for entry in held_out}
    times: dict[int, int] = {}
    num_copies = 0
    left = max_examples
    for entry_rank, number, row in ranked[eval_examples:]:
        if entry_rank in held_out_ranks:
            num_copies += 1
            continue
        take = used[row] if left is None else min(used[row], left)
        if take == 0:
            break
        times[number] = take
        left = None if left is None else left - take
    repeat = np.array([times.get(int(number), 0) for number in conversation], dtype=np.int64)
    held = np.isin(conversation, [entry[1] for entry in held_out])
    rows = np.arange(len(conversation))
    return Choice(np.repeat(rows, repeat), rows[held], num_copies)
