"""What in a folder is data and what is not, and the folders that the library datasets writes."""

import json
from pathlib import Path

from sft_app.common.errors import ConfigError
from sft_app.config.locations import SavedDataset, data_suffix

_ABOUT = ("licence", "license", "readme", "notice", "copying", "citation", "changelog", "authors")
"""Beginnings of the names of files that tell about data."""

_METADATA = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "croissant.json",
    "requirements.txt",
    "robots.txt",
)


def kind_of_no_data(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """Return why a file of a folder is no data, None if it is; `path` is taken below the folder.

    Whoever names such a file itself gets it read.
    """
    if any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in path.parts):
        return "hidden"
    name = path.name.lower()
    if name.startswith(_ABOUT) and data_suffix(path) in ("", ".txt", ".md"):
        return "licence_or_readme"
    if name in _METADATA:
        return "metadata"
    return None if data_suffix(path) in suffixes else "other_kind"


def dataset_files(dataset: SavedDataset, key: str) -> tuple[Path, ...]:
    """Return the Arrow files of a folder of `save_to_disk`, in the dataset's order.

    Raises ConfigError for a split that the folder does not have, and for a damaged folder.
    """
    folder = dataset.folder
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
            if dataset.split not in splits:
                raise ConfigError(
                    f"{key}={folder} has no split {dataset.split}: name one of its own, "
                    f"{key}={folder}:{splits[0] if splits else 'train'}."
                )
            folder = folder / dataset.split
        state = json.loads((folder / "state.json").read_text())
        files = tuple(folder / entry["filename"] for entry in state["_data_files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{key}={folder} is a damaged folder of save_to_disk ({error}): save it again."
        ) from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"{key}={folder} lacks {missing[0]}: save the dataset again.")
    return files
