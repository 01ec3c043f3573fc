"""Where the YAML groups are, and which options each has."""

from pathlib import Path

CONF_DIR = Path(__file__).parents[2] / "conf"
"""In a checkout; an installed wheel has it inside the package (see `conf_dir`)."""


def conf_dir() -> Path:
    """Return the folder of the YAML groups, in a checkout as well as in an installed wheel."""
    installed = Path(__file__).parents[1] / "conf"
    return installed if installed.is_dir() else CONF_DIR


def group_options(group: str) -> list[str]:
    """List the YAML files of a group without their suffix; empty when there is no such group."""
    folder = conf_dir() / group
    return sorted(f.stem for f in folder.glob("*.yaml")) if group and is_there(folder) else []


def is_there(path: Path) -> bool:
    """Tell whether a path exists; False for what cannot be one, such as 300 characters."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
