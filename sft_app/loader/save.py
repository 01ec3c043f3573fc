"""Save a model so that whoever serves it gets the context and the rope that it was trained with."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.loader.rope_plan import RopePlan
from sft_app.loader.tokenizer_plan import TokenizerPlan


def save_for_serving(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rope_plan: RopePlan,
    tokenizer_plan: TokenizerPlan,
    directory: Path,
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write model, configuration and tokenizer to `directory`.

    `state_dict` holds the full weights when the model itself is sharded. The key-value cache is on
    in what is saved, and the tokenizer's model_max_length is the effective context, so that it does
    not cap serving at the training length. `model` and `tokenizer` are left as they were.
    """
    text = model.config.get_text_config(decoder=True)
    holders = [h for h in (model.config, text, model.generation_config) if h is not None]
    before = [h.use_cache for h in holders]
    max_length = tokenizer.model_max_length
    try:
        for holder in holders:
            holder.use_cache = True
        model.save_pretrained(directory, state_dict=dict(state_dict) if state_dict else None)
        tokenizer.model_max_length = rope_plan.serving_length
        tokenizer.save_pretrained(directory)
    finally:
        tokenizer.model_max_length = max_length
        for holder, use_cache in zip(holders, before, strict=True):
            holder.use_cache = use_cache
