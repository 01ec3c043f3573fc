"""GGUF files: converted once into a safetensors directory, because reading one takes minutes."""

import glob
import hashlib
import io
import logging
import os
import shutil
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from pathlib import Path

from filelock import FileLock

from sft_app.common.permissions import as_umask_says
from sft_app.compat import loading_and_saving

logger = logging.getLogger(__name__)

_SAMPLE = 1 << 20
"""Bytes that are hashed at each end of the file; of the places between, a sixteenth."""
_PLACES = 64
"""Places between the ends: a fine-tune may have the vocabulary and the last tensor of its base."""


def convert_gguf(file: Path, cache_dir: str | None) -> Path:
    """Return a directory with the model and tokenizer of `file` in transformers' own format.

    The weights are dequantised to float32, which the blocks decode to exactly. Kept under
    `cache_dir`, else $SFT_CACHE_DIR, else ~/.cache/sft_app. Processes that ask at the same time
    convert once; a conversion that was interrupted leaves nothing behind that looks complete.
    """
    root = Path(cache_dir or os.environ.get("SFT_CACHE_DIR") or "~/.cache/sft_app").expanduser()
    converted = root / "gguf" / f"{file.stem}-{_fingerprint(file)}"
    if converted.is_dir():
        return converted
    converted.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{converted}.lock"):
        if not converted.is_dir():
            for killed in converted.parent.glob(f".{glob.escape(converted.name)}-*"):
                shutil.rmtree(killed, ignore_errors=True)
            logger.info("converting %s to %s (once)", file, converted)
            partial = Path(tempfile.mkdtemp(prefix=f".{converted.name}-", dir=converted.parent))
            try:
                with _quiet_pipe():
                    _convert(file, partial)
                as_umask_says(partial)
                partial.replace(converted)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return converted


def _quiet_pipe() -> AbstractContextManager[object]:
    """Keep the conversion's bar out of pipes and files; on a terminal it is welcome."""
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())


def _convert(file: Path, directory: Path) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, gguf_file=file.name, **loading_and_saving.gguf_arguments()
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(directory)


def _fingerprint(file: Path) -> str:
    """Return what tells files apart that were written to one path, or carry one name.

    Quick for large ones, so that it cannot see every byte: when it was written counts as well.
    """
    facts = file.stat()
    digest = hashlib.sha256(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    with file.open("rb") as stream:
        digest.update(stream.read(_SAMPLE))
        for place in range(1, _PLACES + 1):
            stream.seek(facts.st_size * place // (_PLACES + 1))
            digest.update(stream.read(_SAMPLE // 16))
        stream.seek(max(facts.st_size - _SAMPLE, 0))
        digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:12]
