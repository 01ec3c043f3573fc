"""All files of a folder, through links to other folders."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, through linked folders, too, each of these once.

    A link to what is not there is yielded as well. Raises OSError for a folder that cannot be
    listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root, name) for name in names)
