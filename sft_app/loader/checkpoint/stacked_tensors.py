"""Tensors of a model that transformers stacks from several of the files: which of them lies where.

Mixtures of experts are published with a tensor for each matrix of each expert, and computed with
one for all experts, gate and up in one. How they are put together is not looked up but tried:
transformers' own converters are given small numbered tensors, and where the numbers come to lie is
where the files' tensors do.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sft_app.compat.loading_and_saving import Conversion
from sft_app.loader.checkpoint.stored_tensor import Headers

Stack = tuple[tuple[str, ...], ...]
"""[rows][parts], names in the files: each row of the model's tensor is its parts, one after the
other along their first dimension."""

_SIDES = (2, 3, 5, 7)
"""Of the numbered tensors: all different, so that none can be turned without being seen."""


def find_stacks(
    model: PreTrainedModel, conversions: Iterable[Conversion], headers: Headers
) -> dict[str, Stack] | str:
    """Return what each tensor is stacked from, by its name in the model.

    Or, in words, what is done to tensors of the files besides. `conversions`: what was noted while
    `model` was loaded from `headers`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stacks: dict[str, Stack] = {}
    for conversion in conversions:
        found = _tried(conversion, model, headers)
        if found is None or not all(
            _fits(stack, shapes.get(name), headers) for name, stack in found.items()
        ):
            return (
                "transformers puts tensors together, or takes them apart, when it loads them, and "
                f"does not only stack them ({conversion.target}: {conversion.operations})"
            )
        stacks |= found
    return stacks


def _tried(
    conversion: Conversion, model: PreTrainedModel, headers: Headers
) -> dict[str, Stack] | None:
    """Return the stacks that a converter makes; None where it makes anything else."""
    names = [name for _, name in conversion.sources]
    ranks = {len(headers[name].shape) for name in names}
    if len(ranks) != 1 or not 0 < min(ranks) <= len(_SIDES):
        return None
    sides = _SIDES[: ranks.pop()]
    marks = torch.arange(len(names) * math.prod(sides), dtype=torch.float32)
    marks = marks.reshape(len(names), *sides)
    try:
        made = conversion.convert({n: m.clone() for n, m in zip(names, marks, strict=True)}, model)
        places = {name: _places(tensor, marks) for name, tensor in made.items()}
    except Exception:  # whatever an operation says of tensors that are so small
        return None
    placed = [i for rows in places.values() for row in rows or () for i in row]
    if sorted(placed) != list(range(len(names))):  # something was left out, or is there twice
        return None
    return {
        target: tuple(tuple(names[i] for i in row) for row in rows)
        for target, rows in places.items()
        if rows is not None
    }


def _places(made: Tensor, marks: Tensor) -> list[list[int]] | None:
    """Return which of `marks` [tensors, *sides] lie in each row of `made`; None: not one whole."""
    if made.dim() != marks.dim() or made.shape[2:] != marks.shape[2:]:
        return None
    if made.shape[1] % marks.shape[1]:
        return None
    cut = made.reshape(made.shape[0], -1, *marks.shape[1:])  # [rows, parts, *sides]
    first = cut.flatten(2)[..., 0].nan_to_num()
    found = (first / marks[0].numel()).long().clamp(0, len(marks) - 1)
    return found.tolist() if torch.equal(marks[found], cut) else None


def _fits(stack: Stack, shape: Sequence[int] | None, headers: Headers) -> bool:
    """Tell whether the parts of every row make one of a tensor of this shape."""
    if shape is None or len(stack) != shape[0] or math.prod(shape) <= 1:
        return False
    for row in stack:
        parts = [headers[name].shape for name in row]
        if sum(part[0] for part in parts) != shape[1]:
            return False
        if any(part[1:] != tuple(shape[2:]) for part in parts):
            return False
    return True
