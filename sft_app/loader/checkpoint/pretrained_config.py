"""The configuration that a checkpoint carries."""

import re

from transformers import AutoConfig, PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.locate import Checkpoint, find_checkpoint


def load_pretrained_config(model: ModelConfig) -> PretrainedConfig:
    """Read `config.json` of the checkpoint; no weights.

    Raises ConfigError when there is none, or when it needs code that was not allowed.
    """
    checkpoint = find_checkpoint(model)
    check_remote_code(model, checkpoint)
    try:
        return AutoConfig.from_pretrained(
            checkpoint.location,
            trust_remote_code=model.trust_remote_code,
            **checkpoint.arguments(),
        )
    except Exception as error:
        raise _explained(error, model) from error


def check_remote_code(model: ModelConfig, checkpoint: Checkpoint) -> None:
    """Code from a hub is run only from a commit: a branch may hold something else tomorrow.

    Raises ConfigError.
    """
    pinned = re.fullmatch(r"[0-9a-f]{40}", model.revision or "")
    if model.trust_remote_code and not checkpoint.is_local and not pinned:
        raise ConfigError(
            f"model.revision: {model.revision!r}, but model.trust_remote_code=true runs "
            f"Python code of {model.name_or_path!r}: pin what you have read with "
            "model.revision=<40-hex commit>."
        )


def _explained(error: Exception, model: ModelConfig) -> ConfigError:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return ConfigError(
            f"model.trust_remote_code: false, but {model.name_or_path!r} needs Python code of its "
            "own; read that code, then set model.trust_remote_code=true."
        )
    return ConfigError(
        f"model.name_or_path: no configuration can be read from {model.name_or_path!r} "
        f"({type(error).__name__}: {text[:300]}); give a directory with config.json, a hub id such "
        "as org/name, or a .gguf file."
    )
