"""A folder that is whole or absent: what must be in it, and the SHA-256 of each file.

Checkpoints and final models are written aside, listed here, brought to the disk file by file, and
only then given their name: a reader, or a machine that lost its power, finds all of it or nothing.
"""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sft_app.common.permissions import as_umask_says
from sft_app.common.processes import available_cores

MANIFEST = "manifest.json"
VERSION = 1


def write_manifest(folder: Path, **facts: Any) -> None:
    """List every file below `folder` with its size and SHA-256, and bring all to the disk.

    They become readable as the umask says. `facts` are written beside the list. Raises OSError,
    as of a full disk.
    """
    as_umask_says(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    with ThreadPoolExecutor(max_workers=min(16, available_cores())) as pool:  # hashing lets go
        digests = list(pool.map(_digest_on_disk, files))
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, digests, strict=True)
    }
    text = json.dumps({"version": VERSION, **facts, "files": listed}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    _digest_on_disk(folder / MANIFEST)
    for directory in {folder, *(path.parent for path in files)}:
        sync_folder(directory)


def damage_of(folder: Path, pattern: str = "*") -> str | None:
    """Say what differs from the folder's manifest, or None; raises FileNotFoundError without one.

    `pattern`: the files that are looked at, by their names. Files that the manifest does not know
    are no damage.
    """
    text = (folder / MANIFEST).read_text(encoding="utf-8", errors="replace")
    try:
        listed: dict[str, dict[str, Any]] = json.loads(text)["files"]
        expected = {
            name: (int(f["bytes"]), str(f["sha256"]))
            for name, f in listed.items()
            if Path(name).match(pattern)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    for name, (size, _) in expected.items():  # cheap, and most damage is seen by it
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
    with ThreadPoolExecutor(max_workers=min(16, available_cores())) as pool:
        found = pool.map(lambda name: _digest(folder / name), expected)
        for (name, (_, digest)), now in zip(expected.items(), found, strict=True):
            if now != digest:
                return f"{name} has other content than was written"
    return None


def publish(staged: Path, final: Path) -> None:
    """Give a folder that was written aside its name; one of that name before is removed."""
    if final.exists():
        aside = staged.with_name(f"{staged.name}.replaced")
        shutil.rmtree(aside, ignore_errors=True)
        final.replace(aside)
        staged.replace(final)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        staged.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error}"


def _digest_on_disk(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
