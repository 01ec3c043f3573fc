"""Who may read what a run writes: those whom the umask lets, also where a library is stricter."""

import os
from pathlib import Path


def as_umask_says(path: Path) -> None:
    """Give a file, or a folder with all below it, the permissions of one that was made plainly.

    Libraries that write aside first leave those of a temporary file: safetensors 0600, mkdtemp
    0700. A group that shares a run could not read its weights.
    """
    mask = os.umask(0o077)  # the only way to read it; stricter for a moment, never laxer
    os.umask(mask)
    for one in (path, *path.rglob("*")):
        if not one.is_symlink():
            one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)
