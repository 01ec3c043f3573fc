"""PoSE: rows of the training length, whose positions reach up to a longer context.

Zhu et al. 2023, "PoSE: Efficient Context Window Extension of LLMs via Positional Skip-wise
Training", arXiv:2309.10400: a document is cut into two chunks, and the positions of the second are
moved on by a bias. Both are drawn anew each time, so that in time every distance of the target
context is met. The text is left whole. Positions still begin at 0 in each document and nowhere
else, which is how documents of a packed row are told.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def skip_positions(
    position_ids: Tensor,
    items: Sequence[int],
    documents: Sequence[Sequence[int]],
    *,
    target: int,
    seed: int,
    step: int,
) -> Tensor:
    """Return the positions [B, T] of rows whose documents each leave out positions once.

    Args:
        position_ids: LongTensor [B, T]; they begin at 0 with each document. They may be on a
            device, which is not waited for.
        items: the number of each row in the training set.
        documents: the tokens of each row's documents, in order.
        target: tokens of the context that is simulated; positions stay below it.
        seed: of the training.
        step: optimizer steps before this one. With `seed` and `items` it alone decides what is
            drawn: a resumed run, and any number of processes, draw the same.
    """
    moved_by = torch.zeros(position_ids.shape, dtype=position_ids.dtype)
    for row, (item, lengths) in enumerate(zip(items, documents, strict=True)):
        draw = np.random.default_rng([seed, step, item])
        begin = 0
        for length in lengths:
            bend, bias = draw_skip(length, target, draw)
            moved_by[row, begin + bend : begin + length] = bias
            begin += length
    return position_ids + moved_by.to(position_ids.device)


def draw_skip(length: int, target: int, draw: np.random.Generator) -> tuple[int, int]:
    """Return where the second chunk of a document begins, and by how much it is moved on.

    Both are uniform: the chunks have from 1 to `length - 1` tokens, and the last position is from
    `length - 1` to `target - 1`.
    """
    if length < 2 or length >= target:
        return length, 0
    return int(draw.integers(1, length)), int(draw.integers(0, target - length + 1))
