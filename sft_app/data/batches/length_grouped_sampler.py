"""Batches of examples of similar length, for training without packing."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

_POOL = 50
"""Batches that are sorted together: enough to have neighbours of like length, few enough that the
order stays random."""


class LengthGroupedSampler(Sampler[int]):
    """Give indices in an order where each run of `batch_size` has examples of similar length.

    Shuffled by seed and epoch; the batch with the longest example comes first, so that a lack of
    memory shows at once. For DataLoader(sampler=..., batch_size=batch_size, shuffle=False); the
    Trainer calls `set_epoch`.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Sort examples of these lengths (in tokens) into batches of `batch_size`."""
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Count the examples."""
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield each index once."""
        random = np.random.default_rng([self._seed, self._epoch])
        order = random.permutation(len(self._lengths))
        pool = self._batch_size * _POOL
        batches: list[np.ndarray] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(-self._lengths[part], kind="stable")]
            batches += [
                part[at : at + self._batch_size] for at in range(0, len(part), self._batch_size)
            ]
        # An incomplete batch stays last: anywhere else it would shift the borders of the others.
        last = [batches.pop()] if len(order) % self._batch_size else []
        batches = [batches[i] for i in random.permutation(len(batches))]
        if batches:
            longest = max(range(len(batches)), key=lambda i: self._lengths[batches[i]].max())
            batches.insert(0, batches.pop(longest))
        for batch in [*batches, *last]:
            yield from batch.tolist()
