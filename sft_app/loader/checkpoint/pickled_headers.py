"""Names, shapes and dtypes of `pytorch_model.bin` checkpoints, without their numbers.

They have no header. torch's restricted unpickler reads the names, and leaves the numbers on the
disk (memory map, tensors on the meta device); it builds tensors and runs nothing else.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from sft_app.common.errors import ConfigError
from sft_app.loader.checkpoint.stored_tensor import DTYPE_NAMES, Headers, TensorHeader

PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"


def is_pickled(folder: Path) -> bool:
    """Tell whether the folder has weights of that kind."""
    return any(folder.glob("pytorch_model*.bin*"))


def no_safetensors(name: str) -> ConfigError:
    """Return the refusal of pickled weights that were not allowed."""
    return ConfigError(
        f"model.allow_pickle: false, and {name!r} has no safetensors weights; unpickling can run "
        "code: if you trust it, set model.allow_pickle=true."
    )


def read_pickled(folder: Path, *, allowed: bool) -> Headers:
    """Return what the pickled files of `folder` hold.

    Raises ConfigError when that is not `allowed`, and for files that are missing or broken.
    """
    if not allowed:
        raise no_safetensors(str(folder))
    return {name: header for file in _files(folder) for name, header in _read(file).items()}


def _files(folder: Path) -> list[Path]:
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    if not (folder / PICKLED_INDEX).is_file():
        raise ConfigError(
            f"model.name_or_path: {folder} has weight shards and no {PICKLED_INDEX} that says what "
            "is in them; copy that file there as well."
        )
    try:
        index = json.loads((folder / PICKLED_INDEX).read_text(encoding="utf-8"))
        files = sorted({str(file) for file in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"model.name_or_path: {folder / PICKLED_INDEX} is no index of weights "
            f"({type(error).__name__}: {error}); copy the checkpoint again."
        ) from error
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"model.name_or_path: {folder} lacks the weight shard {missing[0]}{more} of "
            f"{len(files)}; copy what is missing from where the checkpoint came from."
        )
    return [folder / file for file in files]


def _read(path: Path) -> Headers:
    try:
        # Files of torch's first format cannot be mapped into memory.
        state: Any = torch.load(
            path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
        tensors = {str(name): tensor for name, tensor in state.items()}
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
            raise TypeError("it holds more than tensors by name")
    except Exception as error:
        raise ConfigError(
            f"model.name_or_path: the weight file {path} cannot be read by torch's restricted "
            f"unpickler ({type(error).__name__}); copy it again, or give safetensors weights."
        ) from error
    headers = {}
    for name, tensor in tensors.items():
        dtype = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
        headers[name] = TensorHeader(dtype, tuple(tensor.shape), path.name)
    return headers
