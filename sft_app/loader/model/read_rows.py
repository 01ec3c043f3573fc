"""Read some rows of a stored weight, and nothing else of it, into memory of their own.

Read rather than mapped: rows of a tensor lie together in a safetensors file, network storage serves
one large request faster than page faults, and pages of a mapped file would count as this process's.
"""

import json
import math
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sft_app.common import ranks
from sft_app.common.errors import ConfigError
from sft_app.loader.checkpoint.stored_tensor import TORCH_DTYPES
from sft_app.loader.checkpoint.stored_weights import StackedWeight, StoredWeight
from sft_app.loader.model.finite import count_nonfinite


class RowReader:
    """Reads from one file at a time, and remembers what was wrong until `check` is called.

    So the ranks that read their parts of the same weights all come to the end, and agree there.
    """

    def __init__(self) -> None:
        """Begin with no file open."""
        self._file: BufferedReader | None = None
        self._path: Path | None = None
        self._entries: dict[str, Any] = {}
        self._start_of_data = 0
        self._errors: list[str] = []
        self._not_finite: dict[StoredWeight, int] = {}

    def whole(self, weight: StoredWeight | StackedWeight, dtype: torch.dtype) -> Tensor:
        """Read all of a weight."""
        if isinstance(weight, StackedWeight):
            return self._stacked(weight, range(weight.shape[0]), dtype, torch.device("cpu"))
        found = self._load(weight, None)
        return torch.zeros(()) if found is None else found.to(dtype)

    def rows(
        self,
        weight: StoredWeight | StackedWeight,
        rows: range,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """Read `rows` of a weight of this shape, in `dtype`; zeros where they cannot be read."""
        if isinstance(weight, StackedWeight):
            return self._stacked(weight, rows, dtype, device)
        found = self._load(weight, rows)
        if found is None:
            return torch.zeros((len(rows), *shape[1:]), dtype=dtype, device=device)
        return found.to(device=device, dtype=dtype)

    def check(self, *, num_shards: int | None = None) -> None:
        """Raise ConfigError for what was wrong with what has been read.

        With `num_shards` it is a collective of all ranks, of which as many as that hold one copy
        together, and all raise alike.
        """
        self._close()
        found = [(self._errors, self._not_finite)]
        if num_shards is not None and ranks.is_distributed():
            found = [found[0]] * ranks.world_size()
            dist.all_gather_object(found, (self._errors, self._not_finite))
        for errors, _ in found:
            if errors:
                raise ConfigError(errors[0])
        for _, counts in found[:num_shards]:
            for weight in counts:
                broken = sum(of_rank.get(weight, 0) for _, of_rank in found[:num_shards])
                raise ConfigError(
                    f"model.name_or_path: {weight.name!r} in {weight.path} has {broken:,} numbers "
                    "that are NaN or infinite; copy the checkpoint again, or take an earlier one."
                )

    def _stacked(
        self, weight: StackedWeight, rows: range, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Read rows that are tensors of their own: one at a time beside what is returned."""
        own = torch.zeros((len(rows), *weight.shape[1:]), dtype=dtype, device=device)
        for part in weight.of_rows(rows):
            found = self._load(part.stored, None)
            if found is not None:
                own[part.row - rows.start, part.start : part.stop] = found
        return own

    def _load(self, weight: StoredWeight, rows: range | None) -> Tensor | None:
        """Return rows (None: all) in the dtype of the file; None where they cannot be read."""
        try:
            own = self._read(weight, rows)
        except (OSError, ValueError, KeyError) as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            self._errors.append(
                f"model.name_or_path: {weight.name!r} cannot be read from {weight.path} ({what}); "
                "copy the checkpoint again."
            )
            return None
        if own.is_floating_point() and (broken := count_nonfinite(own)):
            self._not_finite[weight] = broken
        return own

    def _read(self, weight: StoredWeight, rows: range | None) -> Tensor:
        file = self._open(weight.path)
        entry = self._entries[weight.name]
        shape, dtype = list(entry["shape"]), TORCH_DTYPES[entry["dtype"]]
        start = self._start_of_data + entry["data_offsets"][0]
        if rows is not None:
            start += rows.start * math.prod(shape[1:]) * dtype.itemsize
            shape[0] = len(rows)
        found = torch.empty(shape, dtype=dtype)
        if found.numel() == 0:
            return found
        octets: Any = found.reshape(-1).view(torch.uint8).numpy()
        into = memoryview(octets)
        file.seek(start)
        while len(into):
            count = file.readinto(into)
            if not count:
                raise ValueError("the file ends before it")
            into = into[count:]
        return found

    def _open(self, path: Path) -> BufferedReader:
        if self._file is not None and path == self._path:
            return self._file
        self._close()
        file = path.open("rb")
        length = int.from_bytes(file.read(8), "little")
        self._entries = json.loads(file.read(length))
        self._start_of_data = 8 + length
        self._file, self._path = file, path
        return file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._path = None
