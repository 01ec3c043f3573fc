"""An adapter of PEFT on its base, with the positions that it was trained with."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.load_report import PEFT_CONFIG
from sft_app.loader.checkpoint.locate import Checkpoint, find_checkpoint


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


def load_adapter(adapter: Path, dtype: torch.dtype | str = "auto") -> Any:
    """Return PEFT's wrapper of the base with the adapter, in eval mode.

    The configuration beside the adapter, where there is one, has the positions that it was trained
    with; the base's embedding grows to as many rows as that says. Raises ConfigError without PEFT
    or the base, and whatever the two libraries raise.
    """
    if not is_installed("peft"):
        raise ConfigError(
            f"{adapter} is an adapter, and peft is not installed: pip install 'sft-app[lora]'."
        )
    from peft import PeftModel

    base = base_of(adapter)
    own = AutoConfig.from_pretrained(base.location, **base.arguments())
    config = AutoConfig.from_pretrained(adapter) if (adapter / "config.json").is_file() else own
    text, base_text = config.get_text_config(decoder=True), own.get_text_config(decoder=True)
    rows, text.vocab_size = text.vocab_size, base_text.vocab_size
    model = AutoModelForCausalLM.from_pretrained(
        base.location, config=config, dtype=dtype, **base.arguments()
    )
    if rows != text.vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter).eval()
