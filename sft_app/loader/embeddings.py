"""Make a model agree with its tokenizer: a row for every id, and the same special ids."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.loader.tokenizer_plan import TokenizerPlan

ROW_MULTIPLE = 64
"""Vocabularies that must grow grow to a multiple of this, which tensor cores like."""


def fit_model_to_tokenizer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plan: TokenizerPlan
) -> None:
    """Add rows for added tokens, and let configuration and generation agree on the special ids.

    A vocabulary that is padded beyond the tokenizer is never made smaller.
    """
    embedding = model.get_input_embeddings()
    if len(tokenizer) > embedding.weight.shape[0]:
        model.resize_token_embeddings(
            len(tokenizer), pad_to_multiple_of=ROW_MULTIPLE, mean_resizing=False
        )
        embedding = model.get_input_embeddings()
    _mean_rows(model, [tokenizer.convert_tokens_to_ids(t) for t in plan.added_tokens])
    # A padding index keeps a row's gradient at zero; where pad is the end token, the end token
    # would never be learned. Labels and attention masks keep padding out, not the embedding.
    embedding.padding_idx = None
    model.config.pad_token_id = plan.pad_token_id
    text = model.config.get_text_config(decoder=True)
    text.pad_token_id = plan.pad_token_id
    for holder in (model.config, text, model.generation_config):
        if holder is None:
            continue
        holder.pad_token_id = plan.pad_token_id
        if holder.eos_token_id is None:
            holder.eos_token_id = plan.eos_token_id
        if holder.bos_token_id is None:
            holder.bos_token_id = plan.bos_token_id


def _mean_rows(model: PreTrainedModel, ids: list[int]) -> None:
    """Start new tokens at the mean of the others: predicted about as often as any, and no more."""
    if not ids:
        return
    first = min(ids)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:  # tied layers share a weight: the second time changes nothing
                weight: torch.Tensor = layer.weight
                weight[first:] = weight[:first].float().mean(dim=0).to(weight.dtype)
