"""Write a safetensors file tensor by tensor: what is written need never be in memory as a whole.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length,
the header as JSON, padded to 8 bytes, then the tensors' bytes. The header comes first, and so the
shapes and dtypes are known before the numbers are.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sft_app.loader.checkpoint.stored_tensor import DTYPE_NAMES

_ORDER = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
"""Of dtypes in the library's files, from the last to the first."""
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor, by name."""


def can_be_written(dtype: torch.dtype) -> bool:
    """Tell whether numbers of this kind have a place in a file of ours."""
    return DTYPE_NAMES.get(dtype) in _ORDER


def in_file_order(layout: Layout) -> list[str]:
    """Return the names as the safetensors library orders them: wide numbers first, then by name."""
    return sorted(layout, key=lambda name: (-_ORDER.index(DTYPE_NAMES[layout[name][1]]), name))


class TensorFile:
    """A safetensors file that is being written; `add` takes the tensors in any order."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Write the header. Raises OSError, as of a full disk."""
        self._layout = layout
        self._starts: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in in_file_order(layout):
            shape, dtype = layout[name]
            end = at + math.prod(shape) * dtype.itemsize
            self._starts[name] = at
            header[name] = {
                "dtype": DTYPE_NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._numbers = self._file.tell()

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor's numbers where they belong. Raises OSError."""
        assert (tuple(tensor.shape), tensor.dtype) == self._layout[name], name
        octets: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self._file.seek(self._numbers + self._starts.pop(name))
        self._file.write(octets)

    def close(self) -> None:
        """End the file. Raises OSError for what could not be written."""
        self._file.close()

    @property
    def missing(self) -> list[str]:
        """Return the tensors that were not added yet, in file order."""
        return list(self._starts)

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
