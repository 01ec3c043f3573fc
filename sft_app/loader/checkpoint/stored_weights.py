"""Weights that a process may read in slices: where in the files each of them is, as it is.

Where a checkpoint's files hold every tensor of the model in its own layout, or each row of it in
tensors of its own (the experts of a mixture), a process that keeps some rows reads those rows and
no others. Where transformers puts tensors together in another way, takes them apart or decodes them
while it loads, somebody has to hold them whole.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sft_app.loader.checkpoint.compare_headers import Compared
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.checkpoint.stacked_tensors import Stack
from sft_app.loader.checkpoint.stored_tensor import Headers
from sft_app.loader.checkpoint.tensor_headers import weights_folder


@dataclass(frozen=True)
class StoredWeight:
    """Where one weight is: a tensor of a file."""

    path: Path
    """A safetensors file."""
    name: str
    """Its name in there."""


@dataclass(frozen=True)
class Part:
    """A tensor of a file that is a part of a row of a weight."""

    stored: StoredWeight
    row: int
    start: int
    """Where in the row, along its first dimension, it begins."""
    stop: int


@dataclass(frozen=True)
class StackedWeight:
    """Where one weight is: each row of it in tensors of its own, one after the other."""

    shape: tuple[int, ...]
    """[rows, sum of the parts' first dimensions, ...]."""
    parts: tuple[Part, ...]

    def of_rows(self, rows: range) -> list[Part]:
        """Return the parts of some rows, file by file."""
        own = (part for part in self.parts if part.row in rows)
        return sorted(own, key=lambda part: part.stored.path)


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """The tensors of a checkpoint on this machine, none of which is changed by loading."""

    folder: Path
    headers: Headers
    """By the names in the files; of the model's tensors only."""
    names: dict[str, str]
    """The model's own name -> the name in the files."""
    stacks: dict[str, Stack]
    """The model's own name -> the names in the files, where it is stacked from several."""

    def __contains__(self, name: str) -> bool:
        return name in self.names or name in self.stacks

    def find(self, name: str) -> StoredWeight | StackedWeight:
        """Return where the model's tensor `name` is. Raises KeyError for one that is not there."""
        if name not in self.stacks:
            return self._find(self.names[name])
        parts = []
        for row, names in enumerate(self.stacks[name]):
            start = 0
            for stored in names:
                stop = start + self.headers[stored].shape[0]
                parts.append(Part(self._find(stored), row, start, stop))
                start = stop
        trailing = self.headers[parts[0].stored.name].shape[1:]
        shape = (len(self.stacks[name]), parts[-1].stop, *trailing)
        return StackedWeight(shape, tuple(parts))

    def _find(self, stored: str) -> StoredWeight:
        return StoredWeight(self.folder / self.headers[stored].file, stored)

    def fingerprint(self) -> str:
        """Return what is equal on two machines whose files have the same layout and sizes."""
        tensors = sorted((n, h.dtype, h.shape, h.file) for n, h in self.headers.items())
        files = sorted({header.file for header in self.headers.values()})
        sizes = [(file, (self.folder / file).stat().st_size) for file in files]
        names = [sorted(self.names.items()), sorted(self.stacks.items())]
        text = json.dumps([tensors, sizes, names])
        return hashlib.sha256(text.encode()).hexdigest()


def find_stored_weights(
    checkpoint: Checkpoint, headers: Headers, compared: Compared
) -> StoredWeights | str:
    """Return where the weights can be read in slices, or why they cannot be."""
    folder = weights_folder(checkpoint)
    if folder is None:
        return "its files are not on this machine yet"
    if compared.own_code:
        return "code that the checkpoint carries builds it"
    if isinstance(compared.stacks, str):
        return compared.stacks
    own = {name: header for name, header in headers.items() if name not in compared.ignored}
    if not all(header.file.endswith(".safetensors") for header in own.values()):
        return "its weights are pickled"
    parts = [n for stack in compared.stacks.values() for row in stack for n in row]
    plain = own.keys() - set(parts)
    names = {compared.renamed[stored]: stored for stored in own if stored in plain}
    if len(names) + len(parts) != len(own) or not names.keys().isdisjoint(compared.stacks):
        return "its files hold a tensor twice"
    return StoredWeights(folder=folder, headers=own, names=names, stacks=compared.stacks)


def mark_stored(
    model: nn.Module, stored: StoredWeights, whole: Collection[str]
) -> list[nn.Parameter]:
    """Note at each parameter where it is stored, but for the names `whole`; return the others.

    The note goes with the parameter, whatever an adapter does to the names around it.
    """
    unmarked: dict[int, nn.Parameter] = {}
    kept = {id(p) for n, p in model.named_parameters(remove_duplicate=False) if n in whole}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in stored and id(parameter) not in kept:
            if stored_weight_of(parameter) is None:  # of tied names, one will do
                noted: Any = parameter
                noted.stored_weight = stored.find(name)
        elif stored_weight_of(parameter) is None:
            unmarked[id(parameter)] = parameter
    return [p for p in unmarked.values() if stored_weight_of(p) is None]


def stored_weight_of(parameter: nn.Parameter) -> StoredWeight | StackedWeight | None:
    """Return where a parameter without memory is stored; None for any other."""
    return getattr(parameter, "stored_weight", None)
