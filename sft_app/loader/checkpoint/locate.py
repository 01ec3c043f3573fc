"""Where a checkpoint is: a local directory, a hub id, a package's data, or a GGUF file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.config.locations import PACKAGE_PREFIX, is_model_id, package_file
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.convert_gguf import convert_gguf


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `from_pretrained` is given."""

    location: str
    """A directory on this machine, or a hub id."""
    is_local: bool
    revision: str | None = None
    cache_dir: str | None = None
    weights_file: str | None = None
    """The file of weights, or their index, that config.json names (`transformers_weights`)."""

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that every `from_pretrained` takes."""
        given = {"revision": self.revision, "cache_dir": self.cache_dir}
        return {key: value for key, value in given.items() if value is not None}

    def file(self, name: str) -> Path | None:
        """Find a file of the checkpoint on this machine, fetched from the hub if need be."""
        if self.is_local:
            path = Path(self.location) / name
            return path if path.is_file() else None
        # Here, for all of transformers is slow to import, and most checkpoints are directories.
        from transformers.utils import cached_file

        found = cached_file(
            self.location,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
            **self.arguments(),
        )
        return Path(found) if found else None


def find_checkpoint(model_config: ModelConfig, *, name_or_path: str | None = None) -> Checkpoint:
    """Turn `model.name_or_path` (or another name, for a tokenizer of its own) into a checkpoint.

    A GGUF file is converted once into a directory that transformers reads like any other.

    Raises ConfigError when a path does not exist.
    """
    name = name_or_path or model_config.name_or_path
    key = "tokenizer.name_or_path" if name_or_path else "model.name_or_path"
    path = package_file(name) if name.startswith(PACKAGE_PREFIX) else Path(name).expanduser()
    if name_or_path is None and model_config.gguf_file is not None:
        return _converted(_gguf_inside(model_config, path), "model.gguf_file", model_config)
    if path.suffix == ".gguf":
        return _converted(path, key, model_config)
    if path.is_dir():
        return Checkpoint(location=str(path), is_local=True)
    if not is_model_id(name):
        raise ConfigError(
            f"{key}: {name!r} is not a directory; give a directory with a checkpoint, a hub id "
            "such as org/name, or a .gguf file."
        )
    return Checkpoint(
        location=name,
        is_local=False,
        # A revision belongs to its repository, and says nothing about another one.
        revision=model_config.revision if name == model_config.name_or_path else None,
        cache_dir=model_config.cache_dir,
    )


def _converted(file: Path, key: str, model_config: ModelConfig) -> Checkpoint:
    if not file.is_file():
        raise ConfigError(f"{key}: {str(file)!r} is not a file; give the path of a GGUF file.")
    try:
        directory = convert_gguf(file, model_config.cache_dir)
    except Exception as error:  # the libraries raise whatever a damaged file leads them to
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{key}: {str(file)!r} cannot be converted ({what[:300]}); give a whole GGUF file of "
            "an architecture that transformers reads from one, or the model in safetensors."
        ) from error
    return Checkpoint(location=str(directory), is_local=True)


def _gguf_inside(model_config: ModelConfig, directory: Path) -> Path:
    assert model_config.gguf_file is not None
    if directory.is_dir():
        return directory / model_config.gguf_file
    from huggingface_hub import hf_hub_download

    try:
        downloaded = hf_hub_download(
            model_config.name_or_path,
            model_config.gguf_file,
            revision=model_config.revision,
            cache_dir=model_config.cache_dir,
        )
    except Exception as error:
        raise ConfigError(
            f"model.gguf_file: {model_config.gguf_file!r} cannot be had from "
            f"{model_config.name_or_path!r} "
            f"({type(error).__name__}: {error}); give a file of that hub model or directory."
        ) from error
    return Path(downloaded)
