"""Chunked linear cross-entropy: a language model's head and loss without holding all logits.

PyTorch 2.13's F.linear_cross_entropy needs less memory (0.05 of the plain head's where this takes
0.1), but on a CPU the plain head's whole time, where this takes 0.8 (tests/benchmarks), and it has
neither token weights nor what a family does to its logits: it is not offered.

Letters in shapes: M supervised positions, D hidden size, V vocabulary, R rows of one chunk.
"""

from typing import Any

import torch

from sft_app.loader.model.logit_transform import LogitTransform

CHUNK_BYTES_CPU = 16 * 2**20
CHUNK_BYTES_CUDA = 512 * 2**20
"""Of one chunk's float32 logits: caches are small on a CPU, and GPUs want large matmuls."""


def chunk_bytes(device: torch.device) -> int:
    """Return the bytes of one chunk's float32 logits on `device`."""
    return CHUNK_BYTES_CUDA if device.type == "cuda" else CHUNK_BYTES_CPU


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    token_weights: torch.Tensor | None = None,
    transform: LogitTransform | None = None,
    chunk_rows: int | None = None,
) -> torch.Tensor:
    """Return the sum over M positions of -log softmax(hidden @ weight.T + bias)[target].

    In nats, float32.

    hidden [M, D], weight [V, D], targets [M], bias [V], token_weights [M] (factors of the summed
    terms). The gradients are computed in the forward, chunk by chunk, while the logits are there:
    as many matmuls as the plain way, and no recomputation. Backward may run once. Under autocast
    the matmuls run in its dtype, as those of the plain head would.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if token_weights is None:
        token_weights = torch.ones(len(targets), dtype=torch.float32, device=hidden.device)
    if chunk_rows is None:
        chunk_rows = max(16, chunk_bytes(hidden.device) // (4 * weight.shape[0]))
    with_gradients = torch.is_grad_enabled()
    transform = transform or LogitTransform()
    with torch.autocast(hidden.device.type, enabled=False):
        loss = _ChunkedCrossEntropy.apply(
            hidden, weight, bias, targets, token_weights.float(), transform, chunk_rows,
            with_gradients,
        )  # fmt: skip
    assert isinstance(loss, torch.Tensor)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        token_weights: torch.Tensor,
        transform: LogitTransform,
        chunk_rows: int,
        with_gradients: bool,
    ) -> torch.Tensor:
        wants_hidden, wants_weight, wants_bias = (
            with_gradients and needed for needed in ctx.needs_input_grad[:3]
        )
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Summed over chunks: in bfloat16 the small terms would be lost.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if wants_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), chunk_rows):
            rows = slice(start, start + chunk_rows)
            chunk, expected = hidden[rows], targets[rows].unsqueeze(1)
            logits = chunk @ weight.T  # [R, V]
            if bias is not None:
                logits += bias
            logits, slope = _transform(logits.float(), transform)
            normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
            weights = token_weights[rows].unsqueeze(1)
            total += ((normaliser - logits.gather(1, expected)) * weights).sum()
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            # d loss / d logit = softmax - one_hot, written over the logits.
            gradient = logits.sub_(normaliser).exp_()
            gradient.scatter_add_(1, expected, torch.full_like(weights, -1.0))
            gradient *= weights * transform.scale
            if slope is not None:
                gradient *= slope
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            gradient = gradient.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = gradient @ weight
            if grad_weight is not None:
                if weight.dtype == torch.float32:
                    grad_weight.addmm_(gradient.T, chunk)
                else:
                    grad_weight += gradient.T @ chunk
        # Not save_for_backward: backward scales them in place, and drops them.
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("backward through chunked_cross_entropy can run only once")
        (factor,) = grad_outputs
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [g if g is None else g.mul_(factor).to(ctx.dtype) for g in gradients]
        return (*scaled, None, None, None, None, None)


def _transform(
    logits: torch.Tensor, transform: LogitTransform
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Apply in place; return also the slope [R, V] of the soft-cap, None without one."""
    if transform.scale != 1.0:
        logits *= transform.scale
    if transform.softcap is None:
        return logits, None
    bounded = logits.div_(transform.softcap).tanh_()
    slope = 1 - bounded.square()
    return bounded.mul_(transform.softcap), slope
