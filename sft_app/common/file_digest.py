"""The SHA-256 of files, remembered so that a large file is read once."""

import hashlib
import json
import os
from pathlib import Path

_DIGITS = 64


def file_digest(path: Path, memo: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    What was computed is remembered in the folder `memo` under the file's path, device, inode, size,
    modification and change time. The change time is set by the kernel: a file that is rewritten at
    equal size, and whose modification time is put back, is read again all the same.
    """
    stat = path.stat()
    known = [
        str(path.resolve()),
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
    ]
    note = memo / f"{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]}.sha256"
    if note.exists() and len(remembered := note.read_text()) == _DIGITS:  # a crash may empty it
        return remembered
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    memo.mkdir(parents=True, exist_ok=True)
    partial = note.with_suffix(f".{os.getpid()}")
    partial.write_text(digest)
    partial.replace(note)
    return digest
