"""Which class of transformers holds a whole checkpoint, towers for images and sound included."""

from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

_TOWERS = ("vision_config", "audio_config")


def is_multimodal(hf_config: PretrainedConfig) -> bool:
    """Tell whether a language model stands beside towers in this configuration."""
    has_towers = any(getattr(hf_config, name, None) is not None for name in _TOWERS)
    return has_towers and hf_config.get_text_config(decoder=True) is not hf_config


def auto_class(hf_config: PretrainedConfig) -> Any:
    """Return the Auto class that builds the model of `hf_config` with all that its checkpoint has.

    For some multimodal families transformers would build the language model alone, and what is
    saved afterwards would have lost its towers.
    """
    whole = type(hf_config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    text_only = any("ForCausalLM" in name for name in hf_config.architectures or [])
    if is_multimodal(hf_config) and whole and not text_only:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def model_class(hf_config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that `auto_class` builds; None for code that a checkpoint carries."""
    mapping = (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        if auto_class(hf_config) is AutoModelForImageTextToText
        else MODEL_FOR_CAUSAL_LM_MAPPING
    )
    found: type[PreTrainedModel] | None = mapping.get(type(hf_config), None)
    return found
