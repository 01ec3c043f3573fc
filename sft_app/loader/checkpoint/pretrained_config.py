"""The configuration that a checkpoint carries."""

import re

from transformers import AutoConfig, PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.locate import Checkpoint, find_checkpoint


def load_pretrained_config(model_config: ModelConfig) -> PretrainedConfig:
    """Read `config.json` of the checkpoint; no weights.

    Raises ConfigError when there is none, or when it needs code that was not allowed.
    """
    checkpoint = find_checkpoint(model_config)
    check_remote_code(model_config, checkpoint)
    try:
        return AutoConfig.from_pretrained(
            checkpoint.location,
            trust_remote_code=model_config.trust_remote_code,
            **checkpoint.arguments(),
        )
    except Exception as error:
        raise _explained(error, model_config) from error


def check_remote_code(model_config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Refuse to run code from a hub unless its commit is named: a branch may change tomorrow.

    Raises ConfigError.
    """
    pinned = re.fullmatch(r"[0-9a-f]{40}", model_config.revision or "")
    if model_config.trust_remote_code and not checkpoint.is_local and not pinned:
        raise ConfigError(
            f"model.revision: {model_config.revision!r}, but model.trust_remote_code=true runs "
            f"Python code of {model_config.name_or_path!r}: pin what you have read with "
            "model.revision=<40-hex commit>."
        )


def _explained(error: Exception, model_config: ModelConfig) -> ConfigError:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return ConfigError(
            f"model.trust_remote_code: false, but {model_config.name_or_path!r} needs Python code "
            "of its own; read that code, then set model.trust_remote_code=true."
        )
    return ConfigError(
        f"model.name_or_path: no configuration can be read from {model_config.name_or_path!r} "
        f"({type(error).__name__}: {text[:300]}); give a directory with config.json, a hub id such "
        "as org/name, or a .gguf file."
    )
