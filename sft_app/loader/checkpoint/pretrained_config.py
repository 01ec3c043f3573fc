"""The configuration that a checkpoint carries."""

import re
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.load_report import PEFT_CONFIG
from sft_app.loader.checkpoint.locate import Checkpoint, find_checkpoint
from sft_app.loader.checkpoint.quantized_source import state_quantization
from sft_app.loader.checkpoint.stated_rope import check_one_rope, check_stated_rope

_LARGEST = {
    r"num_hidden_layers|num_layers|n_layers?|num_decoder_layers": 2_000,
    r"num_(local_|routed_)?experts|n_routed_experts": 20_000,
    r"vocab_size": 10_000_000,
    r"hidden_size|n_embd|d_model|intermediate_size": 1_000_000,
    r"head_dim|\w+_head_dim|num_labels": 100_000,
    r"num_attention_heads|num_key_value_heads|n_heads?|num_heads": 10_000,
}
"""Names of numbers in a config.json, and more than any model has of each."""


def load_pretrained_config(model_config: ModelConfig) -> PretrainedConfig:
    """Read `config.json` of the checkpoint; no weights.

    Raises ConfigError when there is none, or when it needs code that was not allowed.
    """
    checkpoint = find_checkpoint(model_config)
    check_remote_code(model_config, checkpoint)
    _check_not_an_adapter(checkpoint, model_config.name_or_path)
    try:
        stated, _ = PretrainedConfig.get_config_dict(checkpoint.location, **checkpoint.arguments())
    except Exception as error:
        raise _explained(error, model_config) from error
    _check_size(stated, model_config.name_or_path)
    _check_quantization(stated, model_config.name_or_path)
    check_one_rope(stated, model_config.name_or_path)
    try:
        hf_config: PretrainedConfig = AutoConfig.from_pretrained(
            checkpoint.location,
            trust_remote_code=model_config.trust_remote_code,
            **checkpoint.arguments(),
        )
    except Exception as error:
        raise _explained(error, model_config) from error
    check_stated_rope(hf_config, model_config.name_or_path)
    state_quantization(hf_config)
    return hf_config


def _check_not_an_adapter(checkpoint: Checkpoint, name: str) -> None:
    if checkpoint.file("config.json") is None and checkpoint.file(PEFT_CONFIG) is not None:
        raise ConfigError(
            f"model.name_or_path: {name!r} is an adapter ({PEFT_CONFIG}) without a model; merge it "
            "into its base model (peft's merge_and_unload), and give what that saves."
        )


def _check_size(stated: dict[str, Any], name: str) -> None:
    """Refuse numbers that no model has, before an architecture of that size is built from them.

    A million layers, even without memory for their weights, would take hours and gigabytes.
    """
    if not isinstance(stated, dict):
        raise ConfigError(
            f"model.name_or_path: the config.json of {name!r} holds {type(stated).__name__} where "
            "names and values are expected; give the checkpoint's own config.json."
        )
    for holder in (stated, *(value for value in stated.values() if isinstance(value, dict))):
        for key, value in holder.items():
            limit = next((n for word, n in _LARGEST.items() if re.fullmatch(word, key)), None)
            if limit is not None and isinstance(value, int | float) and not 0 <= value <= limit:
                raise ConfigError(
                    f"model.name_or_path: the config.json of {name!r} says {key}={value!r:.50}, "
                    f"and no model has more than {limit:,}; give the checkpoint's own config.json."
                )


def _check_quantization(stated: dict[str, Any], name: str) -> None:
    quantization = stated.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise ConfigError(
            f"model.name_or_path: the config.json of {name!r} says "
            f"quantization_config={quantization!r:.50}, where names and values are expected; give "
            "the checkpoint's own config.json."
        )


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
    if "does not recognize this architecture" in text:
        found = re.search(r"model type `([^`]*)`", text)
        family = found.group(1) if found else "?"
        return ConfigError(
            f"model.name_or_path: {model_config.name_or_path!r} is of the type {family!r}, which "
            f"transformers {transformers.__version__} does not know; install a newer one, or give "
            "a model of a family that it has."
        )
    return ConfigError(
        f"model.name_or_path: no configuration can be read from {model_config.name_or_path!r} "
        f"({type(error).__name__}: {text[:300]}); give a directory with config.json, a hub id such "
        "as org/name, or a .gguf file."
    )
