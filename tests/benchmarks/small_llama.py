"""The model and the packed rows that the benchmarks share."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.training.attention import packed_attention

VOCABULARY = 8192


def small_llama(
    attention: str, *, hidden: int = 256, layers: int = 4, vocabulary: int = VOCABULARY
) -> LlamaForCausalLM:
    """Llama's shape, small: heads of 64, two query heads to a key head, MLP of 8/3 the width."""
    packed_attention.register()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=8192,
        use_cache=False,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).train()


def packed_row(length: int, document: int, supervised_share: float = 1.0) -> dict[str, Any]:
    """One row [1, length] of documents of `document` tokens; the last one is what is left."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (1, length), generator=generator)
    positions = torch.arange(length) % document
    kept = torch.rand(1, length, generator=generator) < supervised_share
    labels = torch.where(kept & (positions > 0), tokens, -100)
    return {"input_ids": tokens, "labels": labels, "position_ids": positions[None]}
