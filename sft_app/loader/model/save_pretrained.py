"""Save a model so that whoever serves it gets the context and the rope that it was trained with."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app import compat
from sft_app.loader.model.legacy_config import add_legacy_rope_keys
from sft_app.loader.rope.rope_plan import RopePlan
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan
from sft_app.records.run_files import write_atomically


def save_for_serving(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rope_plan: RopePlan,
    tokenizer_plan: TokenizerPlan,
    directory: Path,
    *,
    dtype: torch.dtype | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write model, configuration and tokenizer to `directory`; weights in `dtype` (None: theirs).

    `state_dict` holds the full weights when the model itself is sharded. The key-value cache is on
    in what is saved, and the tokenizer's model_max_length is the effective context: serving engines
    take the smaller of the two numbers. `model` and `tokenizer` are left as they were.
    """
    text = model.config.get_text_config(decoder=True)
    holders = [h for h in (model.config, text, model.generation_config) if h is not None]
    before = [h.use_cache for h in holders]
    max_length = tokenizer.model_max_length
    try:
        for holder in holders:
            holder.use_cache = True
        weights = in_dtype(model, state_dict or model.state_dict(), dtype or model.dtype)
        model.save_pretrained(directory, state_dict=weights)
        tokenizer.model_max_length = serving_length(rope_plan, tokenizer_plan)
        tokenizer.save_pretrained(directory)
    finally:
        tokenizer.model_max_length = max_length
        for holder, use_cache in zip(holders, before, strict=True):
            holder.use_cache = use_cache
    _name_dtype(directory, dtype or model.dtype)
    add_legacy_rope_keys(directory)
    _name_portable_tokenizer_class(directory)


def in_dtype(
    model: PreTrainedModel, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Convert to `dtype` all but the layers that the family always keeps in float32.

    Tied weights stay one tensor.
    """
    kept = compat.kept_in_float32(model)
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not any(f".{part}." in f".{name}" for part in kept):
            done.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype))
    return {name: done.get((t.data_ptr(), t.shape), t) for name, t in weights.items()}


def _name_dtype(directory: Path, dtype: torch.dtype) -> None:
    """Name the dtype of what is saved: transformers writes that of the model in memory."""
    path = directory / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for holder in (settings, *settings.values()):
        if isinstance(holder, dict) and "dtype" in holder:
            holder["dtype"] = str(dtype).removeprefix("torch.")
    write_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def serving_length(rope_plan: RopePlan, tokenizer_plan: TokenizerPlan) -> int:
    """Return the tokens that the saved model can be served with: its effective context, if any."""
    if rope_plan.effective_context_length is not None:
        return rope_plan.effective_context_length
    return max(rope_plan.context_length, tokenizer_plan.own_max_length)


def _name_portable_tokenizer_class(directory: Path) -> None:
    """Name, with a tokenizer.json, the class that every version of transformers has and that takes
    the file as it is: v4 does not know v5's names, and v5's Llama class builds its own rules."""
    path = directory / "tokenizer_config.json"
    if not (directory / "tokenizer.json").is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    if "auto_map" not in settings:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        write_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
