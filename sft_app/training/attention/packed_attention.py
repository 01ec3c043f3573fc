"""Attention for packed rows without the dense mask, known to transformers as "sft_packed".

transformers asks two functions for each attention implementation: one makes the mask, once per
forward; the other attends, once per layer. Ours makes no mask but the list of documents, and
attends inside each; the padding of a row counts as one more document. What is neither packed nor
padded goes to PyTorch's SDPA as it would without us. In a forward of a sequence shard (see
context_parallel.py) the documents are those of the whole rows, and attention sees all of them.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import and_masks, sdpa_mask

from sft_app.training.attention.document_bounds import (
    Documents,
    MaskFunction,
    documents_as_rule,
    documents_of_lengths,
    documents_of_mask,
)
from sft_app.training.attention.kernels import (
    AttentionSettings,
    attend_heads_first,
    choose_kernel,
)
from sft_app.training.attention.known_batch import known_padding
from sft_app.training.attention.packed_forward import SFT_PACKED, lengths_for_masks
from sft_app.training.parallel.context_parallel import (
    ContextParallelDocuments,
    documents_of_this_forward,
)
from sft_app.training.parallel.ulysses import all_to_all_heads_to_seq, all_to_all_seq_to_heads

NAME = SFT_PACKED
CUDNN_FROM_LENGTH = 2048
"""Tokens. Below this the choice of kernel does not show."""


def register() -> None:
    """Make `attn_implementation="sft_packed"` known to transformers."""
    # What is compiled around it (compile_layers.py) must not depend on the documents' lengths.
    AttentionInterface.register(NAME, torch.compiler.disable(attend))
    AttentionMaskInterface.register(NAME, make_documents)


def make_documents(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Documents | ContextParallelDocuments | torch.Tensor | None:
    """Return what transformers hands to the layers as their mask.

    `Documents` for packed or padded rows and for sliding windows; None for plain causal attention;
    the dense boolean mask [B, 1, T, T] of SDPA with a cache, and for rules that are not causal.
    `ContextParallelDocuments` in a forward of a shard of the rows, where `mask_function` sees but
    that shard.
    """
    split = documents_of_this_forward()
    if split is not None:
        if use_vmap or attention_mask is not None or q_length != kv_length:
            raise ValueError("its mask function cannot be read off a sequence shard")
        return split.within(local_size)
    packable = (
        not use_vmap  # a rule of the model's own, which need not be causal inside a document
        and q_length == kv_length > 1
        and isinstance(q_offset, int)
        and q_offset == kv_offset == 0
    )
    known = lengths_for_masks()
    if packable:
        documents = documents_of_mask(
            mask_function,
            batch_size,
            q_length,
            local_size,
            device,
            None if attention_mask is None else known_padding(attention_mask),
            known,
        )
        if documents is not None:
            whole_rows = len(documents.lengths) == batch_size and documents.window is None
            return None if whole_rows else documents
    if known is not None and sum(known) == batch_size * q_length and q_length == kv_length:
        inside = documents_as_rule(known, batch_size, device)
        mask_function = and_masks(mask_function, inside)
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        use_vmap=use_vmap,
        device=device,
        **options,
    )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Documents | ContextParallelDocuments | torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **extra: Any,
) -> tuple[torch.Tensor, None]:
    """Attend: query [B, H, T, D], key and value [B, K, T, D] -> ([B, T, H, D], None)."""
    if extra.get("position_bias") is not None:
        raise NotImplementedError("attention with position_bias has no packed kernel")
    query, key, value = _of_one_dtype(query, key, value)
    settings = AttentionSettings(scaling, softcap, dropout, extra.pop("s_aux", None))
    if isinstance(attention_mask, ContextParallelDocuments):
        return _attend_with_other_ranks(query, key, value, attention_mask, settings), None
    if isinstance(attention_mask, Documents):
        return _attend_inside_documents(query, key, value, attention_mask, settings), None
    if softcap is not None or settings.sinks is not None:
        return _attend_without_sdpa(query, key, value, attention_mask, settings), None
    with _preferred_kernels(query, attention_mask):
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **extra
        )
    return attended, None


def _attend_inside_documents(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    settings: AttentionSettings,
) -> torch.Tensor:
    batch_size, _, row_length, _ = query.shape
    # Models project to [B, T, H, D] and swap afterwards: going back is free.
    q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    kernel = choose_kernel(q, v, settings)
    return kernel(q, k, v, documents, settings).unflatten(0, (batch_size, row_length))


def _attend_with_other_ranks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    split: ContextParallelDocuments,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Attend with query [B, H, T/P, D] of this rank's positions -> [B, T/P, H, Dv] of the same."""
    q, k, v = all_to_all_seq_to_heads(query, key, value, split.cp_group)
    if settings.sinks is not None:
        sinks = settings.sinks.chunk(split.cp_group.size)[split.cp_group.rank]
        settings = replace(settings, sinks=sinks)
    documents = split.documents
    if len(documents.lengths) == len(q) and documents.window is None:
        with _preferred_kernels(q, None):
            attended = attend_heads_first(q, k, v, None, settings).transpose(1, 2)
    else:
        attended = _attend_inside_documents(q, k, v, documents, settings)
    return all_to_all_heads_to_seq(attended, split.cp_group)


def _of_one_dtype(*tensors: torch.Tensor) -> Iterable[torch.Tensor]:
    """Cast under autocast, where rotated queries and keys are float32 beside values of 16 bits."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return (tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def _attend_without_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Attend where transformers' SDPA lacks something: caps or sinks."""
    batch_size, _, length, _ = query.shape
    if mask is None and length == key.shape[2]:
        rows = documents_of_lengths([length] * batch_size, query.device)
        return _attend_inside_documents(query, key, value, rows, settings)
    if mask is None:  # one new token against a cache: it may see everything
        mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device)
    return attend_heads_first(query, key, value, mask, settings).transpose(1, 2)


def _preferred_kernels(
    query: torch.Tensor, mask: torch.Tensor | None
) -> AbstractContextManager[None]:
    """Put cuDNN first on Hopper: about twice as fast on long rows there, slower on other GPUs."""
    long_unmasked = mask is None and query.is_cuda and query.shape[2] >= CUDNN_FROM_LENGTH
    if not long_unmasked or torch.cuda.get_device_capability(query.device) != (9, 0):
        return nullcontext()
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    return sdpa_kernel(order, set_priority=True)
