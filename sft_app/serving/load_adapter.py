"""An adapter of PEFT on its base, with the positions that it was trained with."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.load_report import PEFT_CONFIG
from sft_app.loader.checkpoint.locate import Checkpoint, find_checkpoint

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Where PEFT looks for an adapter's weights."""

SAVED_TWICE = (".modules_to_save.", ".original_module.", ".base_layer.")
"""In names of what PEFT saves once more with embeddings (save_embedding_layers)."""


def base_of(adapter: Path) -> Checkpoint:
    """Return the base that an adapter names; raises ConfigError where it is not here."""
    path = adapter / PEFT_CONFIG
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        name, revision = str(about["base_model_name_or_path"]), about.get("revision")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not name the adapter's base ({error}).") from error
    try:
        return find_checkpoint(ModelConfig(name_or_path=name, revision=revision))
    except ConfigError as error:
        raise ConfigError(f"{path}: base_model_name_or_path {name!r} is not here.") from error


def load_adapter(
    adapter: Path, dtype: torch.dtype | str = "auto", *, trust_remote_code: bool = False
) -> Any:
    """Return PEFT's wrapper of the base with the adapter, in eval mode.

    The configuration beside the adapter, where there is one, has the positions that it was trained
    with; the base's embedding grows to as many rows as that says. Raises ConfigError without PEFT
    or the base, or where the adapter's weights are not those that it speaks of; and whatever the
    two libraries raise.
    """
    if not is_installed("peft"):
        raise ConfigError(
            f"{adapter} is an adapter, and peft is not installed: pip install 'sft-app[lora]'."
        )
    from peft import PeftModel

    if not any((adapter / name).is_file() for name in WEIGHTS):
        raise ConfigError(
            f"{adapter} has an adapter's configuration and no weights ({' or '.join(WEIGHTS)}): "
            "copy the whole adapter."
        )
    base = base_of(adapter)
    arguments = {**base.arguments(), "trust_remote_code": trust_remote_code}
    own = AutoConfig.from_pretrained(base.location, **arguments)
    config = (
        AutoConfig.from_pretrained(adapter, trust_remote_code=trust_remote_code)
        if (adapter / "config.json").is_file()
        else own
    )
    text, base_text = config.get_text_config(decoder=True), own.get_text_config(decoder=True)
    rows, text.vocab_size = text.vocab_size, base_text.vocab_size
    model = AutoModelForCausalLM.from_pretrained(
        base.location, config=config, dtype=dtype, **arguments
    )
    if rows != text.vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*missing adapter keys")  # an error below
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        wrapped = PeftModel.from_pretrained(model, str(adapter))
    _check_all_is_used(wrapped, adapter)
    return wrapped.eval()


def _check_all_is_used(wrapped: Any, adapter: Path) -> None:
    """Raise ConfigError for weights that the adapter lacks, or that have no place in the model.

    PEFT leaves both out, with a warning at most: the base alone would answer. It tells what it did
    to whoever loads weights into an adapter that is there.
    """
    told = wrapped.load_adapter(str(adapter), wrapped.active_adapter, is_trainable=False)
    unknown = [key for key in told.unexpected_keys if not any(p in key for p in SAVED_TWICE)]
    odd = {"missing": sorted(told.missing_keys), "too many": sorted(unknown)}
    if any(odd.values()):
        listed = "; ".join(f"{what}: {', '.join(keys[:3])}" for what, keys in odd.items() if keys)
        raise ConfigError(
            f"the weights of {adapter} are not those of its configuration and its base, and would "
            f"be left out ({listed}): copy the whole adapter, or name the base that it belongs to "
            f"in {PEFT_CONFIG}."
        )
