"""Save a model so that whoever serves it gets the context and the rope that it was trained with."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.compat import loading_and_saving
from sft_app.loader.checkpoint.weights_plan import WeightsPlan
from sft_app.loader.model.companion_files import (
    copy_companions,
    count_no_dropped_layers,
    give_processors_the_template,
    make_tokenizer_portable,
    name_no_code,
)
from sft_app.loader.model.dtype import rounded
from sft_app.loader.model.restore_keys import restore_keys
from sft_app.loader.rope.legacy_keys import NO_WORDS, add_legacy_rope_keys
from sft_app.loader.rope.rope_plan import RopePlan
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan
from sft_app.records.run_files import write_atomically

logger = logging.getLogger(__name__)


def save_for_serving(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rope_plan: RopePlan,
    tokenizer_plan: TokenizerPlan,
    directory: Path,
    *,
    weights_plan: WeightsPlan | None = None,
    dtype: torch.dtype | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    without_weights: bool = False,
) -> None:
    """Write model, configuration and tokenizer to `directory`, with what stood beside the weights.

    Weights are saved in `dtype` (None: theirs), but for those that have one of their own in the
    checkpoint that `weights_plan` describes. `state_dict` holds the full weights when the model
    itself is sharded; `without_weights`: somebody else writes them. The key-value cache is on in
    what is saved, and the tokenizer's model_max_length is the effective context: serving engines
    take the smaller of the two numbers. `model` and `tokenizer` are left as they were.
    """
    text = model.config.get_text_config(decoder=True)
    holders = [h for h in (model.config, text, model.generation_config) if h is not None]
    before = [h.use_cache for h in holders]
    max_length, template = tokenizer.model_max_length, tokenizer.chat_template
    main = dtype or model.dtype
    try:
        for holder in holders:
            holder.use_cache = True
        weights: dict[str, torch.Tensor] = {}
        if not without_weights:
            exceptions = saved_dtypes(model, weights_plan, main)
            weights = in_dtypes(state_dict or model.state_dict(), main, exceptions)
        model.save_pretrained(directory, state_dict=weights)
        tokenizer.model_max_length = serving_length(rope_plan, tokenizer_plan)
        tokenizer.chat_template = tokenizer_plan.saved_chat_template or template
        tokenizer.save_pretrained(directory)
    finally:
        tokenizer.model_max_length, tokenizer.chat_template = max_length, template
        for holder, use_cache in zip(holders, before, strict=True):
            holder.use_cache = use_cache
    _name_dtype(directory, main)
    if not type(model).is_remote_code():
        name_no_code(directory)
    make_tokenizer_portable(directory)
    if weights_plan is not None:
        copied = copy_companions(weights_plan.checkpoint, tokenizer_plan.name_or_path, directory)
        if copied:
            logger.info("saved: %s copied as they were", ", ".join(copied))
        changed = give_processors_the_template(directory)
        if changed:
            logger.info("saved: the chat template of training stands in %s", ", ".join(changed))
        count_no_dropped_layers(directory, weights_plan)
    restore_keys(directory, weights_plan.checkpoint if weights_plan else None)
    if not add_legacy_rope_keys(directory):
        logger.warning("saved: %s", NO_WORDS)


def saved_dtypes(
    model: PreTrainedModel, weights_plan: WeightsPlan | None, main: torch.dtype
) -> dict[str, torch.dtype]:
    """Return the tensors, by the model's own names, that are not saved in the dtype `main`.

    They keep what the checkpoint's files have: router biases in float32, for example. Asked for
    more precision than the checkpoint has, everything gets it. Where nothing is known of the files,
    the family's own list of what stays in float32 decides.
    """
    if weights_plan is None or weights_plan.num_tensors is None:
        kept = loading_and_saving.kept_in_float32(model)
        names = [n for n, _ in model.named_parameters()] + [n for n, _ in model.named_buffers()]
        return {n: torch.float32 for n in names if any(f".{k}." in f".{n}." for k in kept)}
    if main == weights_plan.dtype:
        return dict(weights_plan.tensor_dtypes)
    return {
        name: torch.promote_types(main, own)
        for name, own in weights_plan.tensor_dtypes.items()
        if own.is_floating_point
    }


def in_dtypes(
    weights: Mapping[str, torch.Tensor], main: torch.dtype, exceptions: Mapping[str, torch.dtype]
) -> dict[str, torch.Tensor]:
    """Convert all numbers to `main` but for the `exceptions`; tied weights stay one tensor.

    Raises ConfigError for a number that is too large for the dtype that it is saved in.
    """
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            dtype = exceptions.get(name, main)
            done.setdefault((tensor.data_ptr(), tensor.shape), rounded(tensor, dtype, name))
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
