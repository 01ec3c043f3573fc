"""Causal attention inside each document of a flattened batch, by whichever kernel fits.

Letters in shapes: N positions of the flattened batch, n of one document, H query heads,
K key and value heads (K divides H), D size of a head.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from sft_app.common.processes import is_installed
from sft_app.training.attention.document_bounds import Documents


@dataclass(frozen=True)
class AttentionSettings:
    """What a layer asks of its attention, beside the documents."""

    scale: float | None = None
    """Factor of the scores; None: 1/sqrt(D)."""
    softcap: float | None = None
    """Scores become softcap * tanh(score / softcap)."""
    dropout: float = 0.0
    sinks: torch.Tensor | None = None
    """[H]: for each query head the score of a key without a value, which takes part in the softmax
    (gpt-oss)."""


Kernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Documents, AttentionSettings], torch.Tensor
]
"""query [N, H, D], key [N, K, D], value [N, K, Dv], ... -> [N, H, Dv]."""


def choose_kernel(query: torch.Tensor, value: torch.Tensor, settings: AttentionSettings) -> Kernel:
    """Return the fastest kernel that can do exactly this on the tensors' device."""
    fused = (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and settings.sinks is None
        and query.shape[-1] >= value.shape[-1]
        and _flash_has_head_size(query.shape[-1])
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )
    if fused and settings.softcap is None and settings.dropout == 0.0 and _varlen_parameters():
        return torch_varlen
    if fused and is_installed("flash_attn"):
        return flash_attn_varlen
    return one_call_per_document


def _flash_has_head_size(size: int) -> bool:
    """Tell whether flash kernels take it: called directly they do not pad, so multiples of 8.

    Between 192 and 256 some GPUs have no backward.
    """
    return size % 8 == 0 and (size <= 192 or size == 256)


def one_call_per_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Attend on any device in any dtype; the cost is that of the documents alone."""
    lengths = list(documents.lengths)
    # split, not slices: its backward is one concatenation, that of a slice a batch of zeros.
    triples = zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
    return torch.cat([_one_document(q, k, v, documents.window, settings) for q, k, v in triples])


def _one_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Attend in one document: query [n, H, D] -> [n, H, Dv]."""
    # [n, H, D] -> [1, H, n, D]
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
    if window is None or window >= query.shape[0]:
        attended = attend_heads_first(q, k, v, None, settings)
    else:
        attended = _attend_in_window(q, k, v, window, settings)
    return attended.squeeze(0).transpose(0, 1)


def _attend_in_window(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Blocks of `window` queries [1, H, window, D], each against at most 2 * window - 1 keys."""
    length = query.shape[2]
    blocks = []
    for start in range(0, length, window):
        end = min(start + window, length)
        first_key = max(0, start - window + 1)
        distance = (
            torch.arange(start, end, device=query.device)[:, None]
            - torch.arange(first_key, end, device=query.device)[None, :]
        )
        allowed = (distance >= 0) & (distance < window)
        keys, values = key[:, :, first_key:end], value[:, :, first_key:end]
        blocks.append(attend_heads_first(query[:, :, start:end], keys, values, allowed, settings))
    return torch.cat(blocks, dim=2)


def attend_heads_first(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor | None,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Attend with heads first; `allowed` [queries, keys], None: causal."""
    if settings.softcap is not None:
        return soft_capped_attention(query, key, value, allowed, settings)
    if settings.sinks is not None:
        return _attend_with_sinks(query, key, value, allowed, settings)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=allowed,
        dropout_p=settings.dropout,
        is_causal=allowed is None,
        scale=settings.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_with_sinks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor | None,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Attend with a sink by SDPA: a first key that meets every query with the sink's score.

    query [B, H, n, D], key and value [B, K, m, D]. Queries get eight more dimensions, of which the
    first holds sink / scale and meets a 1 in the sink's key alone, whose value is 0. Causal kernels
    align the first query with the first key, so a query that is dropped stands before the others.
    """
    assert settings.sinks is not None
    scale = settings.scale if settings.scale is not None else query.shape[-1] ** -0.5
    sinks = (settings.sinks / scale).to(query.dtype)[:, None, None]
    query = torch.cat([query, F.pad(sinks.expand(*query.shape[:3], 1), (0, 7))], dim=-1)
    key = F.pad(key, (0, 8, 1, 0))
    key[..., 0, -8] = 1.0
    value = F.pad(value, (0, 0, 1, 0))
    if allowed is None:
        query = F.pad(query, (0, 0, 1, 0))
    else:
        allowed = F.pad(allowed, (1, 0), value=True)
    attended = F.scaled_dot_product_attention(
        query,
        key,
        F.pad(value, (0, query.shape[-1] - value.shape[-1])),  # equal sizes: flash kernels
        attn_mask=allowed,
        dropout_p=settings.dropout,
        is_causal=allowed is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    first = 1 if allowed is None else 0
    return attended[:, :, first:, : value.shape[-1]]


def soft_capped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor | None,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Attend with capped scores, which SDPA does not have.

    query [B, H, n, D], key and value [B, K, m, D]; keeps n*m scores a head: fine for documents of a
    few thousand tokens. `allowed` broadcasts to [B, 1, n, m]; None: causal.
    """
    assert settings.softcap is not None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scale = settings.scale if settings.scale is not None else query.shape[-1] ** -0.5
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    scores = torch.tanh(scores / settings.softcap) * settings.softcap
    if allowed is None:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(F.dropout(weights, settings.dropout), value)


def torch_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Call the variable-length flash kernel that PyTorch carries (CUDA, bf16 and fp16)."""
    from torch.nn.attention.varlen import varlen_attn

    parameters = _varlen_parameters()
    query_size, value_size = query.shape[-1], value.shape[-1]
    value = F.pad(value, (0, query_size - value_size))  # latent attention (MLA) has smaller ones
    options: dict[str, object] = {"scale": settings.scale, "window_size": _flash_window(documents)}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in parameters:
            options["enable_gqa"] = True
        else:
            groups = query.shape[1] // key.shape[1]
            key = key.repeat_interleave(groups, dim=1)
            value = value.repeat_interleave(groups, dim=1)
    cu_seqlens, max_seqlen = documents.cu_seqlens, documents.max_seqlen
    bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    attended = varlen_attn(query, key, value, *bounds, **options)  # type: ignore[arg-type]
    assert isinstance(attended, torch.Tensor)
    return attended[..., :value_size]


def _varlen_parameters() -> frozenset[str]:
    """Return the parameters of torch's varlen_attn; none where it lacks what causality needs.

    The signature is young: `is_causal` gave way to `window_size` and `scale` in 2.11, and
    `enable_gqa` came in 2.12.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    names = _parameters_of(varlen_attn)
    return names if {"window_size", "scale"} <= names else frozenset()


@functools.cache
def _parameters_of(function: Callable[..., object]) -> frozenset[str]:
    """Return the names of a function's parameters; a look takes 0.1 ms, in each layer's call."""
    return frozenset(inspect.signature(function).parameters)


def flash_attn_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    settings: AttentionSettings,
) -> torch.Tensor:
    """Call the flash-attn package, where installed: it also has soft-capping and dropout."""
    from flash_attn import flash_attn_varlen_func

    attended: torch.Tensor = flash_attn_varlen_func(
        query,
        key,
        F.pad(value, (0, query.shape[-1] - value.shape[-1])),
        cu_seqlens_q=documents.cu_seqlens,
        cu_seqlens_k=documents.cu_seqlens,
        max_seqlen_q=documents.max_seqlen,
        max_seqlen_k=documents.max_seqlen,
        dropout_p=settings.dropout,
        softmax_scale=settings.scale,
        causal=True,
        window_size=_flash_window(documents),
        softcap=settings.softcap or 0.0,
    )
    return attended[..., : value.shape[-1]]


def _flash_window(documents: Documents) -> tuple[int, int]:
    """Return a window as flash kernels count it: keys left of the query, without the query."""
    return (-1 if documents.window is None else documents.window - 1, 0)
