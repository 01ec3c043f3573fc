"""Whether there is room for what is about to be written."""

import errno
import os
import shutil
from pathlib import Path


class DiskFull(OSError):
    """Says where there is no room, for what, and how much of it is missing."""


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise DiskFull when the file system of `folder` has less than `needed` bytes left."""
    free = free_bytes(folder)
    if free < needed:
        raise _disk_full(folder, needed, free, what)


def explain_full_disk(error: BaseException, folder: Path, needed: int, what: str) -> None:
    """Raise DiskFull from an error that a full disk has caused; return for any other."""
    told = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    free = free_bytes(folder)
    if told or free < needed:  # torch and safetensors speak of failed writes only
        raise _disk_full(folder, needed, free, what) from error


def free_bytes(folder: Path) -> int:
    """Return what an ordinary user may still write to the file system of `folder`, in bytes."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _disk_full(folder: Path, needed: int, free: int, what: str) -> DiskFull:
    return DiskFull(
        f"{what} needs {_size(needed)} in {os.fspath(folder)}, and {_size(free)} are free there: "
        "make room, keep fewer checkpoints (trainer.save_total_limit=1), or run on another disk "
        "(hydra.run.dir=/other/disk/...); the same command then goes on from the newest checkpoint."
    )


def _size(number: int) -> str:
    size = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
