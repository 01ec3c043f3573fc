"""Load a causal LM whose positions are what the RopePlan says."""

import copy
import logging
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sft_app.config.errors import ConfigError
from sft_app.config.model import ModelConfig
from sft_app.loader.checkpoint import find_checkpoint
from sft_app.loader.hardware_choice import choose_attention, choose_dtype
from sft_app.loader.rope_check import check_built
from sft_app.loader.rope_plan import RopePlan, apply_rope_plan

logger = logging.getLogger(__name__)


def load_model(
    model: ModelConfig,
    config: PretrainedConfig,
    plan: RopePlan,
    *,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Build the model with the plan's positions, load its weights, and check what was built.

    `config` is copied, not changed. The key-value cache is off: in training it costs memory and
    breaks packing.

    Raises ConfigError when the weights cannot be had as asked (pickled only, not there).
    """
    device = torch.device(device)
    config = copy.deepcopy(config)
    apply_rope_plan(config, plan)
    config.use_cache = False
    config.get_text_config(decoder=True).use_cache = False
    dtype = choose_dtype(model, device)
    attention = choose_attention(model, config, dtype.value, device)
    built = _from_pretrained(model, config, dtype.value, attention.value)
    if built.generation_config is not None:
        built.generation_config.use_cache = False
    check_built(built, plan.rotary_dims)
    built.to(device)
    logger.info(
        "model: %s, %.1fM parameters in %s (%s), attention %s (%s)",
        model.name_or_path,
        sum(p.numel() for p in built.parameters()) / 1e6,
        str(dtype.value).removeprefix("torch."),
        dtype.reason,
        built.config._attn_implementation,
        attention.reason,
    )
    return built


def _from_pretrained(
    model: ModelConfig, config: PretrainedConfig, dtype: torch.dtype, attention: str | None
) -> PreTrainedModel:
    checkpoint = find_checkpoint(model)
    arguments: dict[str, Any] = checkpoint.arguments()
    if attention is not None:
        arguments["attn_implementation"] = attention
    if not model.allow_pickle:
        arguments["use_safetensors"] = True
    try:
        return AutoModelForCausalLM.from_pretrained(
            checkpoint.location,
            config=config,
            dtype=dtype,
            trust_remote_code=model.trust_remote_code,
            **arguments,
        )
    except OSError as error:
        text = " ".join(str(error).split())
        if "safetensors" in text:
            raise ConfigError(
                f"model.allow_pickle: false, and {model.name_or_path!r} has no safetensors "
                "weights; unpickling can run code: if you trust its makers, set "
                "model.allow_pickle=true."
            ) from error
        raise ConfigError(
            f"model.name_or_path: the weights of {model.name_or_path!r} cannot be read ({text})."
        ) from error
