"""The architecture of a model without its weights, and which of its parts are trained."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.compat import loading_and_saving
from sft_app.loader.architecture.auto_class import auto_class, is_multimodal


def build_skeleton(
    hf_config: PretrainedConfig, *, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Build the model of `hf_config` on the meta device: shapes, no memory, no weights.

    Raises ConfigError when transformers cannot build the architecture as a causal LM.
    """
    # A class that a checkpoint brought along is loaded only after the user allowed it.
    is_remote = type(hf_config).__module__.startswith("transformers_modules")
    arguments: dict[str, Any] = {"trust_remote_code": True} if is_remote else {}
    if dtype is not None:
        arguments["dtype"] = dtype
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.device("meta"):
            plain = loading_and_saving.without_quantization(hf_config)
            model: PreTrainedModel = auto_class(hf_config).from_config(plain, **arguments)
    except Exception as error:
        if isinstance(error, KeyError) and error.args[0] in _rope_types(hf_config):
            raise ConfigError(
                f"model.name_or_path: its config.json says rope_type {error.args[0]!r}, which "
                f"transformers does not know for {hf_config.model_type!r} models; give the "
                "checkpoint's own config.json, or another model."
            ) from error
        if "Padding_idx must be within" in str(error):
            text = hf_config.get_text_config(decoder=True)
            raise ConfigError(
                f"model.name_or_path: its config.json says pad_token_id={text.pad_token_id}, which "
                f"is not among its {text.vocab_size} tokens; set it to null there: "
                "tokenizer.pad_token chooses it anew."
            ) from error
        # transformers' own sentence lists every family that it knows: thousands of characters.
        what = " ".join(str(error).split())
        what = what if len(what) < 200 else f"{what[:200]}..."
        raise ConfigError(
            f"model.name_or_path: transformers cannot build a causal LM from this "
            f"{hf_config.model_type!r} configuration ({type(error).__name__}: {what}); choose a "
            "model whose architecture is a causal LM."
        ) from error
    finally:
        logging.disable(level)
    freeze_towers(model)
    return model


def _rope_types(hf_config: PretrainedConfig) -> set[object]:
    parameters = getattr(hf_config.get_text_config(decoder=True), "rope_parameters", None) or {}
    sets = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return {one.get("rope_type") for one in sets} - {None}


def freeze_towers(model: PreTrainedModel) -> int:
    """Leave all but the language model as it is; return how many parameters are frozen.

    Text says nothing about images or sound: towers, and what projects from them, are kept.
    """
    frozen = 0
    for parameter in tower_parameters(model):
        parameter.requires_grad_(False)
        frozen += parameter.numel()
    return frozen


def tower_parameters(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Yield the parameters outside the language model, which text never goes through."""
    for module in _towers(model).values():
        yield from module.parameters(recurse=False)


def tower_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear layers outside the language model: no adapter goes there."""
    return [name for name, module in _towers(model).items() if isinstance(module, nn.Linear)]


def _towers(model: PreTrainedModel) -> dict[str, nn.Module]:
    if not is_multimodal(model.config):
        return {}
    language = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    inside = {id(m) for part in language if part is not None for m in part.modules()}
    return {name: module for name, module in model.named_modules() if id(module) not in inside}
