"""Attention over sequence shards: positions are exchanged for heads (all-to-all).

Before attention each rank has all heads of its own positions; it gives the others their heads, and
gets from them the positions that it lacks. Then each rank attends, over whole rows, with its share
of the heads, by the very kernels that a single process uses; and everything goes back. Two
all-to-all exchanges in a forward, two in a backward, of what a rank holds anyway (Ulysses:
Jacobs et al. 2023, arXiv:2309.14509).

Letters in shapes: P ranks, B rows, T positions in a row, t = T/P of one rank, H query heads, K key
and value heads, h heads of one rank, D size of a head.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sft_app.training.parallel.context_parallel import ContextParallelGroup


def all_to_all_seq_to_heads(
    query: Tensor, key: Tensor, value: Tensor, cp_group: ContextParallelGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Exchange query [B, H, t, D] -> [B, H/P, T, D]; key and value [B, K, t, D] likewise.

    P divides H. Key and value heads that P does not divide are repeated until it does, so that each
    query head meets its own on its rank.
    """
    query, key, value = (_in_dtype_of_kernels(tensor) for tensor in (query, key, value))
    heads = (query, _divisible(key, cp_group.size), _divisible(value, cp_group.size))
    chunks = [_by_rank(tensor, cp_group.size) for tensor in heads]
    # One exchange for the three of them.
    received = exchange(torch.cat(chunks, dim=-1), cp_group)  # [P, B, t, features]
    rows = received.transpose(0, 1).flatten(1, 2)  # [B, T, features]
    split = rows.split([chunk.shape[-1] for chunk in chunks], dim=-1)
    q, k, v = (
        features.unflatten(-1, (-1, tensor.shape[-1])).transpose(1, 2)
        for features, tensor in zip(split, heads, strict=True)
    )
    return q, k, v


def all_to_all_heads_to_seq(attended: Tensor, cp_group: ContextParallelGroup) -> Tensor:
    """Exchange [B, T, H/P, D] -> [B, t, H, D]."""
    chunks = attended.unflatten(1, (cp_group.size, -1)).transpose(0, 1)  # [P, B, t, h, D]
    return exchange(chunks, cp_group).permute(1, 2, 0, 3, 4).flatten(2, 3)


def _in_dtype_of_kernels(tensor: Tensor) -> Tensor:
    """Under autocast, as attention would turn it anyway: rotary embeddings leave float32 behind."""
    if torch.is_autocast_enabled(tensor.device.type):
        return tensor.to(torch.get_autocast_dtype(tensor.device.type))
    return tensor


def _divisible(heads: Tensor, size: int) -> Tensor:
    """[B, K, t, D] -> [B, lcm(K, P), t, D]."""
    count = heads.shape[1]
    return heads.repeat_interleave(math.lcm(count, size) // count, dim=1)


def _by_rank(heads: Tensor, size: int) -> Tensor:
    """[B, H, t, D] -> [P, B, t, h * D]: to each rank its heads."""
    return heads.unflatten(1, (size, -1)).permute(1, 0, 3, 2, 4).flatten(3, 4)


def exchange(chunks: Tensor, cp_group: ContextParallelGroup) -> Tensor:
    """Send entry j of [P, ...] to rank j of the group; entry i of the answer is from rank i."""
    received: Tensor = _Exchange.apply(chunks, cp_group.group)
    return received


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunks: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(chunks, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return _all_to_all(gradient, ctx.group), None


def _all_to_all(chunks: Tensor, group: dist.ProcessGroup) -> Tensor:
    chunks = chunks.contiguous()
    received = torch.empty_like(chunks)
    dist.all_to_all_single(received, chunks, group=group)
    return received
