"""Make a model agree with its tokenizer: a row for every id, and the same special ids."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan

ROW_MULTIPLE = 64
"""Vocabularies that must grow grow to a multiple of this, which tensor cores like."""


def changes_embeddings(plan: TokenizerPlan) -> bool:
    """Tell whether `fit_model_to_tokenizer` will write to the embedding and the head."""
    return bool(plan.new_row_ids) or plan.model_vocab_size is None


def fit_model_to_tokenizer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plan: TokenizerPlan
) -> None:
    """Add rows for added tokens, and let configuration and generation agree on the special ids.

    Rows of added tokens start at the mean of the tokens that the checkpoint knew. A vocabulary that
    is padded beyond the tokenizer is never made smaller.
    """
    assert tokenizer.pad_token_id == plan.pad_token_id, "the plan is another tokenizer's"
    rows = model.get_input_embeddings().weight.shape[0]
    if plan.vocab_size > rows:
        model.resize_token_embeddings(
            plan.vocab_size, pad_to_multiple_of=ROW_MULTIPLE, mean_resizing=False
        )
    grown = range(rows, model.get_input_embeddings().weight.shape[0])
    new = sorted({*plan.added_token_ids, *grown})
    if new:
        _set_mean_rows(model, new)
    # A padding index keeps a row's gradient at zero; where pad is the end token, the end token
    # would never be learned. Labels and attention masks keep padding out, not the embedding.
    model.get_input_embeddings().padding_idx = None

    text = model.config.get_text_config(decoder=True)
    for holder in (model.config, text, model.generation_config):
        if holder is None:
            continue
        holder.pad_token_id = plan.pad_token_id
        if plan.bos_token_id is not None:
            holder.bos_token_id = plan.bos_token_id
        if plan.eos_token_id is not None:
            holder.eos_token_id = _joined(getattr(holder, "eos_token_id", None), plan.eos_token_id)
    if model.generation_config is not None and plan.stop_token_ids:
        model.generation_config.eos_token_id = _joined(
            model.generation_config.eos_token_id, *plan.stop_token_ids
        )


def _joined(known: int | list[int] | None, *ids: int) -> int | list[int]:
    """Add ids to a published list of ends (Llama-3.1 has three), of which none is lost."""
    if not isinstance(known, list) and len(ids) == 1:
        return ids[0]
    published = known if isinstance(known, list) else []
    return [*published, *(i for i in ids if i not in published)]


def _set_mean_rows(model: PreTrainedModel, new: list[int]) -> None:
    """Set new rows to the mean of the rows before them: as likely as any token, and no more."""
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is None:
                continue
            # Tied layers share the weight: the second time changes nothing.
            weight: torch.Tensor = layer.weight
            weight[new] = weight[: new[0]].float().mean(dim=0).to(weight.dtype)
            bias: torch.Tensor | None = getattr(layer, "bias", None)
            if bias is not None:
                bias[new] = bias[: new[0]].float().mean().to(bias.dtype)
