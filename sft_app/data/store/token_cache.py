"""Where tokenised data is kept, and who makes it when many processes want it at once."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedTokenizerBase

from sft_app.common import thought_marks
from sft_app.common.errors import ConfigError

log = logging.getLogger(__name__)

DATA_PACKAGE = Path(__file__).parents[1]
"""The folder of `sft_app.data`: reading, rendering and labelling decide what a row holds."""


_SIZES = "sizes.json"


def cache_directory(configured: str | None) -> Path:
    """Return `data.cache_dir`, else $SFT_CACHE_DIR/tokenized, else ~/.cache/sft_app/tokenized.

    Raises ConfigError where there can be no such folder.
    """
    root = Path(os.environ.get("SFT_CACHE_DIR") or "~/.cache/sft_app")
    folder = (Path(configured) if configured else root / "tokenized").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir={folder} cannot be made ({error.strerror}): name a folder that can be "
            "written, data.cache_dir=/path/to/it."
        ) from error
    return folder


def cached(directory: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder for `key`, filled by `build(folder)` if no process has done so before.

    Whoever takes the lock first builds; the others wait for as long as that takes. A folder
    appears under its name only when it is complete, so a builder that is killed leaves nothing
    that could be taken for data. One whose files have other sizes than they were written with,
    after a crash of the machine or by somebody's hand, is built anew.
    """
    final = directory / key
    if _is_whole(final):
        return final
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(directory / f"{key}.lock"), timeout=-1)
    with lock:
        if _is_whole(final):
            return final
        if final.exists():
            log.warning("%s is damaged: it is made anew", final)
            shutil.rmtree(final)
        unfinished = directory / f"{key}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        build(unfinished)
        (unfinished / _SIZES).write_text(json.dumps(_sizes(unfinished)))
        unfinished.rename(final)
        log.info("tokenised data is kept in %s", final)
    return final


def _is_whole(folder: Path) -> bool:
    """Whether the files that were built are there, as large as they were."""
    try:
        expected = json.loads((folder / _SIZES).read_text())
    except (OSError, ValueError):
        return False
    found = _sizes(folder)
    return isinstance(expected, dict) and all(found.get(n) == size for n, size in expected.items())


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of each file in a folder; what is in folders inside has sizes of its own."""
    return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}


def cache_key(parts: dict[str, Any]) -> str:
    """Return the name of the folder for data that these parts decide."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what changes with all that decides the ids: vocabulary, rules, specials, template."""
    digest = hashlib.sha256()
    parts = [type(tokenizer).__name__, tokenizer.special_tokens_map, tokenizer.chat_template]
    digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        digest.update(backend.to_str().encode())
    else:
        digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
        digest.update(str(sorted(tokenizer.init_kwargs.items(), key=str)).encode())
    return digest.hexdigest()


def _code_digest() -> str:
    """Change with all code of `sft_app.data`, with what it knows of thoughts, and with the
    libraries that decide the ids."""
    digest = hashlib.sha256()
    for file in (*sorted(DATA_PACKAGE.rglob("*.py")), Path(thought_marks.__file__)):
        digest.update(file.read_bytes())
    for library in ("transformers", "tokenizers", "jinja2"):
        digest.update(version(library).encode())
    return digest.hexdigest()


CODE_DIGEST = _code_digest()
"""Taken when the code is loaded: what is edited afterwards does not run in this process."""
