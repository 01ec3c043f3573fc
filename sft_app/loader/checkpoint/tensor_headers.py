"""Names, shapes and dtypes of a checkpoint's tensors, from its safetensors headers: no weights.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length,
the header as JSON, then the tensors' bytes. A sharded checkpoint has an index beside its files.
"""

import json
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import get_safetensors_metadata, try_to_load_from_cache
from huggingface_hub.errors import NotASafetensorsRepoError

from sft_app.common.errors import ConfigError
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.checkpoint.pickled_headers import (
    PICKLED,
    PICKLED_INDEX,
    is_pickled,
    no_safetensors,
    read_pickled,
)
from sft_app.loader.checkpoint.stored_tensor import Headers, NoHeaders, TensorHeader

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 512 << 20
"""Bytes; a header that claims more is not one."""


def read_headers(checkpoint: Checkpoint, *, allow_pickle: bool = False) -> Headers | NoHeaders:
    """Read the headers of all weight files, on this machine or (a few kilobytes) from the hub.

    Raises ConfigError for a shard that is missing, cut short or no safetensors file, and for
    weights that are pickled only, unless `allow_pickle`.
    """
    folder = weights_folder(checkpoint)
    if folder is None:
        return _read_hub(checkpoint, allow_pickle=allow_pickle)
    if checkpoint.weights_file is not None:
        return _read_named(folder, checkpoint.weights_file)
    return _read_folder(folder, allow_pickle=allow_pickle)


def weights_folder(checkpoint: Checkpoint) -> Path | None:
    """Return where on this machine all of the checkpoint's weights are; None: on the hub."""
    return Path(checkpoint.location) if checkpoint.is_local else _cached_folder(checkpoint)


def _read_folder(folder: Path, *, allow_pickle: bool) -> Headers | NoHeaders:
    if (folder / WHOLE).is_file():  # transformers takes it whatever the index says
        _check_no_shards_beside(folder)
        return dict(_read_file(folder, WHOLE))
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    for name in (WHOLE, INDEX):
        if (folder / name).is_symlink() or (folder / name).exists():
            raise _no_file(folder / name)
    parts = sorted(folder.glob("model-*-of-*.safetensors"))
    if parts:
        raise ConfigError(
            f"model.name_or_path: {folder} has {len(parts)} weight shards and no {INDEX} that says "
            "what is in them; copy that file there as well."
        )
    if is_pickled(folder):
        return read_pickled(folder, allowed=allow_pickle)
    raise ConfigError(
        f"model.name_or_path: {folder} has no weights ({WHOLE} or {INDEX}){_instead(folder)}; give "
        "a directory that holds them, or a hub id."
    )


def _read_named(folder: Path, file: str) -> Headers:
    """Read what config.json names; transformers takes it whatever else lies there."""
    inside = (folder / file).resolve().is_relative_to(folder.resolve())
    if not inside or not file.endswith((".safetensors", ".safetensors.index.json")):
        raise ConfigError(
            f"model.name_or_path: the config.json of {folder} says transformers_weights={file!r}, "
            "where a .safetensors file of that folder is expected, or an index of such files; "
            "name one, or take the key out."
        )
    if not (folder / file).is_file():
        raise ConfigError(
            f"model.name_or_path: {folder} lacks {file}, which its config.json names "
            "(transformers_weights); copy it from where the checkpoint came from, or take the key "
            "out."
        )
    if file.endswith(".json"):
        return _read_shards(folder, file)
    return dict(_read_file(folder, file))


def _check_no_shards_beside(folder: Path) -> None:
    """Refuse a whole file and shards: some programs read the one, some the others, some both."""
    shards = [f for f in _indexed(folder / INDEX) if f != WHOLE and (folder / f).is_file()]
    if shards:
        raise ConfigError(
            f"model.name_or_path: {folder} has its weights twice, in {WHOLE} and in the shards of "
            f"{INDEX} ({shards[0]}), of which some programs read the one and some the other; take "
            "away what does not belong to this model."
        )


def _no_file(path: Path) -> ConfigError:
    what = "a folder"
    if path.is_symlink():
        what = f"a link to {path.readlink()}, which is not there"
    return ConfigError(
        f"model.name_or_path: the weight file {path} is {what}; copy the file itself (cp -L and "
        "rsync -L follow links)."
    )


_OTHER_WEIGHTS = {
    "adapter_model.safetensors": "a LoRA adapter, to be merged into its base model first",
    "adapter_model.bin": "a LoRA adapter, to be merged into its base model first",
    "*.gguf": "which model.gguf_file={name} takes",
    "consolidated*.safetensors": "in Mistral's own layout, not that of transformers",
    "consolidated*.pth": "in Meta's own layout, not that of transformers",
    "*.h5": "TensorFlow's",
    "*.msgpack": "Flax's",
    "*.distcp": "shards of torch's distributed checkpoints, to be put together first",
    "zero_to_fp32.py": "DeepSpeed's, to be put together by that script first",
    "*.safetensors": "a name that transformers does not look for",
    "*.bin": "a name that transformers does not look for",
}
"""What lies where weights are looked for, by the pattern of its name."""


def _instead(folder: Path) -> str:
    """Say what else lies there: the way out is another for each."""
    for pattern, what in _OTHER_WEIGHTS.items():
        found = sorted(folder.glob(pattern))
        if found:
            return f", but {found[0].name}: {what.format(name=found[0].name)}"
    return ""


def _read_shards(folder: Path, index_file: str = INDEX) -> Headers:
    try:
        index = json.loads((folder / index_file).read_text(encoding="utf-8"))
        named = {str(name): str(file) for name, file in index["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"model.name_or_path: {folder / index_file} is no index of weights "
            f"({type(error).__name__}: {error}); copy the checkpoint again."
        ) from error
    files = sorted(set(named.values()))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"model.name_or_path: {folder} lacks the weight shard {missing[0]}{more} of "
            f"{len(files)}; copy what is missing from where the checkpoint came from."
        )
    headers: Headers = {}
    for file in files:
        for name, header in _read_file(folder, file):
            if name in headers:
                raise ConfigError(
                    f"model.name_or_path: {name!r} is in two files of {folder}, "
                    f"{headers[name].file} and {file}; they belong to different checkpoints: copy "
                    "them again."
                )
            headers[name] = header
    absent = [name for name in named if name not in headers]
    if absent:
        raise ConfigError(
            f"model.name_or_path: {folder / index_file} names {absent[0]!r}, which is in none of "
            f"its {len(files)} files ({len(absent)} such tensors); index and shards belong to "
            "different checkpoints: copy them again."
        )
    return headers


def _read_file(folder: Path, file: str) -> Iterator[tuple[str, TensorHeader]]:
    path = folder / file

    def refuse(what: str) -> ConfigError:
        return ConfigError(
            f"model.name_or_path: the weight file {path} {what}; copy it again (a Git LFS pointer "
            "is a short text that stands for the file: `git lfs pull` fetches it)."
        )

    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size, _LARGEST_HEADER):
                raise refuse(f"of {size:,} bytes is no safetensors file")
            text = stream.read(length)
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})") from error
    try:
        stated: dict[str, dict[str, Any]] = json.loads(text)
        about = stated.get("__metadata__", {})
        if not all(isinstance(text, str) for text in about.values()):
            raise TypeError("what stands beside the tensors is text")
        entries = {name: entry for name, entry in stated.items() if name != "__metadata__"}
        found = {
            name: TensorHeader(str(e["dtype"]), _shape(e["shape"]), file)
            for name, e in entries.items()
        }
        places = {name: _place(e["data_offsets"]) for name, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise refuse(f"has a header that cannot be read ({type(error).__name__})") from error
    expected = 8 + length + max((last for _, last in places.values()), default=0)
    if size != expected:
        raise refuse(f"has {size:,} bytes, and its header speaks of {expected:,}")
    end = 0
    for name, (first, last) in sorted(places.items(), key=lambda item: item[1]):
        wanted = found[name].num_bytes
        if first != end or (wanted is not None and last - first != wanted):
            raise refuse(f"gives {name!r:.200} the bytes {first:,} to {last:,}, which are not its")
        end = last
    yield from found.items()


def _shape(stated: Any) -> tuple[int, ...]:
    shape = tuple(map(operator.index, stated))
    if min(shape, default=0) < 0:
        raise ValueError("a side is shorter than nothing")
    return shape


def _place(stated: Any) -> tuple[int, int]:
    first, last = map(operator.index, stated)
    return first, last


def _cached_folder(checkpoint: Checkpoint) -> Path | None:
    """Find the snapshot of a hub model that was downloaded before."""
    usual = (WHOLE, INDEX, PICKLED, PICKLED_INDEX)
    for name in usual if checkpoint.weights_file is None else (checkpoint.weights_file,):
        found = try_to_load_from_cache(
            checkpoint.location, name, cache_dir=checkpoint.cache_dir, revision=checkpoint.revision
        )
        if isinstance(found, str):
            folder = Path(found).parent
            # Some shards may be there and others not yet: then the hub knows more.
            if not name.endswith(".json") or _is_whole(folder / name):
                return folder
    return None


def _is_whole(path: Path) -> bool:
    files = _indexed(path)
    return bool(files) and all((path.parent / file).is_file() for file in files)


def _indexed(path: Path) -> list[str]:
    """Return the files that an index names; none where it is no index."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return sorted({str(file) for file in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _read_hub(checkpoint: Checkpoint, *, allow_pickle: bool) -> Headers | NoHeaders:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return NoHeaders("the hub is not asked (HF_HUB_OFFLINE), and no copy is on this machine")
    if checkpoint.weights_file is not None:
        return NoHeaders(f"config.json names {checkpoint.weights_file}")
    try:
        metadata = get_safetensors_metadata(checkpoint.location, revision=checkpoint.revision)
    except NotASafetensorsRepoError as error:
        if not allow_pickle:
            raise no_safetensors(checkpoint.location) from error
        return NoHeaders("the hub has pickled weights of it only")
    except Exception as error:  # whatever a network can do: the weights are checked when loaded
        return NoHeaders(f"the hub did not say ({type(error).__name__})")
    return {
        name: TensorHeader(str(tensor.dtype), tuple(tensor.shape), file)
        for file, part in metadata.files_metadata.items()
        for name, tensor in part.tensors.items()
    }
