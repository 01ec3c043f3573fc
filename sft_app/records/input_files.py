"""The files that decide what a run learns: found by name, without reading them."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_app.common.files_below import files_below
from sft_app.config.locations import (
    COMPRESSED_SUFFIXES,
    DATA_SUFFIXES,
    DOCUMENT_SUFFIXES,
    PACKAGE_PREFIX,
    package_file,
    saved_dataset,
)
from sft_app.config.schema.app import AppConfig

MODEL_SUFFIXES = (".safetensors", ".bin", ".pt", ".json", ".py", ".gguf")
TOKENIZER_SUFFIXES = (".json", ".model", ".jinja", ".txt", ".vocab", ".merges", ".tiktoken")


def input_files(config: AppConfig) -> dict[str, dict[str, Path]]:
    """Return, for each part of what goes in, its files by name.

    What lies on a hub has none here: its name and revision are settings.
    """
    model = config.model.name_or_path
    found = {
        "data.train": _data_files(config.data.train),
        "data.eval": _data_files(config.data.eval),
        "model": _files(model, MODEL_SUFFIXES),
        "tokenizer": _files(config.tokenizer.name_or_path or model, TOKENIZER_SUFFIXES),
        "tokenizer.chat_template": _files(config.tokenizer.chat_template, (".jinja",)),
        "evaluation.documents": _data_files(config.evaluation.documents),
    }
    return {key: files for key, files in found.items() if files}


def _data_files(value: Any) -> dict[str, Path]:
    entries = value if isinstance(value, list | tuple) else [value]
    files: dict[str, Path] = {}
    for number, entry in enumerate(entries):
        place = entry.get("path") if isinstance(entry, dict) else entry
        suffixes = (*DATA_SUFFIXES, *DOCUMENT_SUFFIXES, *COMPRESSED_SUFFIXES)
        saved = saved_dataset(place) if isinstance(place, str) else None
        if saved is not None:  # with or without a split, which its settings name
            place = str(saved.folder)
        for name, path in _files(place, suffixes).items():
            files[f"{number}/{name}"] = path
    return files


def _files(place: Any, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return a file, the files of a folder or the matches of a pattern; none for anything else."""
    if not isinstance(place, str) or not place:
        return {}
    try:
        is_package = place.startswith(PACKAGE_PREFIX)
        path = package_file(place) if is_package else Path(place).expanduser()
        if path.is_file():
            return {path.name: path}
        if path.is_dir():
            return _named(path, (p for p in files_below(path) if p.suffix.lower() in suffixes))
        if glob.has_magic(place):
            return _named(None, map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
    except (OSError, ValueError):  # no path at all, as a template that is written out
        pass
    return {}


def _named(folder: Path | None, paths: Iterable[Path]) -> dict[str, Path]:
    """Name files from their folder, or in full; hidden ones are no input.

    Where a pattern was matched, the folders on the way (`..`, `.data`) hide nothing.
    """
    named = {}
    for path in paths:
        name = path.relative_to(folder) if folder else path
        parts = name.parts if folder else (path.name,)
        if path.is_file() and not any(part.startswith(".") for part in parts):
            named[name.as_posix()] = path
    return named
