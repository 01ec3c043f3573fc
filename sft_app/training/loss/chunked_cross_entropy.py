"""Chunked linear cross-entropy: a language model's head and loss without holding all logits.

PyTorch 2.13's F.linear_cross_entropy needs less memory (0.05 of the plain head's where this takes
0.1), but on a CPU the plain head's whole time, where this takes 0.8 (tests/benchmarks), and it has
neither token weights nor what a family does to its logits: it is not offered.

Letters in shapes: M supervised positions, D hidden size, V vocabulary, R rows of one chunk.
"""

from typing import Any

import torch

from sft_app.loader.model.logit_transform import LogitTransform
from sft_app.training.loss.vocabulary_shard import VocabularyShard

CHUNK_BYTES_CPU = 16 * 2**20
CHUNK_BYTES_CUDA = 512 * 2**20
"""Of one chunk's float32 logits: caches are small on a CPU, and GPUs want large matmuls."""
LEAST_ROWS = 256
"""Of a chunk, whatever its bytes: a matmul reads the whole head, for however few rows."""


def chunk_bytes(device: torch.device) -> int:
    """Return the bytes of one chunk's float32 logits on `device`."""
    return CHUNK_BYTES_CUDA if device.type == "cuda" else CHUNK_BYTES_CPU


def rows_of_chunk(words: int, num_bytes: int) -> int:
    """Return the positions of a chunk whose float32 logits over `words` take about `num_bytes`."""
    return max(LEAST_ROWS, num_bytes // (4 * words))


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    token_weights: torch.Tensor | None = None,
    transform: LogitTransform | None = None,
    chunk_rows: int | None = None,
    shard: VocabularyShard | None = None,
) -> torch.Tensor:
    """Return the sum over M positions of -log softmax(hidden @ weight.T + bias)[target].

    In nats, float32.

    hidden [M, D], weight [V, D], targets [M], bias [V], token_weights [M] (factors of the summed
    terms). The gradients are computed in the forward, chunk by chunk, while the logits are there:
    as many matmuls as the plain way, and no recomputation. Backward may run once. Under autocast
    the matmuls run in its dtype, as those of the plain head would. With a `shard`, weight and bias
    are this rank's words of V, and the result is that of all words on every rank.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if chunk_rows is None:
        words = weight.shape[0] if shard is None else shard.most_words
        chunk_rows = rows_of_chunk(words, chunk_bytes(hidden.device))
    with_gradients = torch.is_grad_enabled()
    transform = transform or LogitTransform()
    with torch.autocast(hidden.device.type, enabled=False):
        loss = _ChunkedCrossEntropy.apply(
            hidden, weight, bias, targets,
            None if token_weights is None else token_weights.float(),
            transform, chunk_rows, with_gradients, shard,
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
        token_weights: torch.Tensor | None,
        transform: LogitTransform,
        chunk_rows: int,
        with_gradients: bool,
        shard: VocabularyShard | None,
    ) -> torch.Tensor:
        wants_hidden, wants_weight, wants_bias = (
            with_gradients and needed for needed in ctx.needs_input_grad[:3]
        )
        with_gradient = wants_hidden or wants_weight or wants_bias
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Summed over chunks: in bfloat16 the small terms would be lost.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if wants_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        logits_of = _Logits(weight, bias, min(chunk_rows, len(targets)))
        for start in range(0, len(targets), chunk_rows):
            rows = slice(start, start + chunk_rows)
            chunk = hidden[rows]
            expected, minus_one = _own_words(targets[rows].unsqueeze(1), weight, shard)
            logits, slope = _transform(logits_of(chunk), transform)
            # log softmax from the row's maximum, all of it in the one buffer of logits
            maximum = logits.amax(1, keepdim=True)
            if shard is not None:
                shard.maximum(maximum)
            picked = logits.gather(1, expected) - maximum
            exponentials = logits.sub_(maximum).exp_()
            sums = exponentials.sum(1, keepdim=True)
            if shard is not None:
                # Zero where the word is another rank's; both sums in one exchange.
                sums, picked = shard.sum(torch.stack((sums, picked * -minus_one)))
            losses = sums.log() - picked
            weights = None if token_weights is None else token_weights[rows].unsqueeze(1)
            total += losses.sum() if weights is None else (losses * weights).sum()
            if not with_gradient:
                continue
            # d loss / d logit = softmax - one_hot, written over the logits.
            gradient = exponentials.div_(sums)
            gradient.scatter_add_(1, expected, minus_one)
            if weights is not None:
                gradient *= weights
            if transform.scale != 1.0:
                gradient *= transform.scale
            if slope is not None:
                gradient *= slope
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            if grad_weight is not None:
                _add_product(grad_weight, gradient, chunk)
            if grad_hidden is not None:
                torch.mm(gradient.to(weight.dtype), weight, out=grad_hidden[rows])
        if shard is not None and grad_hidden is not None:
            shard.sum(grad_hidden)
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
        return (*scaled, None, None, None, None, None, None)


def _own_words(
    expected: torch.Tensor, weight: torch.Tensor, shard: VocabularyShard | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of `weight` for the words [R, 1], and -1.0; 0.0 for words of other ranks."""
    minus_one = torch.full_like(expected, -1.0, dtype=torch.float32)
    if shard is None:
        return expected, minus_one
    rows = expected - shard.start
    minus_one *= (rows >= 0) & (rows < weight.shape[0])
    return rows.clamp(0, weight.shape[0] - 1), minus_one


class _Logits:
    """The float32 logits [R, V] of one chunk after the other, in one buffer."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, chunk_rows: int) -> None:
        self.weight, self.bias = weight, bias
        shape = (chunk_rows, weight.shape[0])
        self.product = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.buffer = self.product
        if weight.dtype != torch.float32:
            self.buffer = torch.empty(shape, dtype=torch.float32, device=weight.device)

    def __call__(self, chunk: torch.Tensor) -> torch.Tensor:
        product, logits = self.product[: len(chunk)], self.buffer[: len(chunk)]
        torch.mm(chunk, self.weight.T, out=product)
        if self.bias is not None:
            product += self.bias
        if logits.dtype != product.dtype:
            logits.copy_(product)
        return logits


def _add_product(total: torch.Tensor, gradient: torch.Tensor, chunk: torch.Tensor) -> None:
    """Add gradient [R, V] transposed times chunk [R, D] to `total` [V, D], in float32.

    In float16 a sum over the rows can pass 65,504 whatever the loss scale is, which is applied
    afterwards: there the product is one of float32.
    """
    if chunk.dtype == torch.float16:
        chunk = chunk.float()
    if chunk.dtype == torch.float32:
        total.addmm_(gradient.T, chunk)
    else:
        total += gradient.to(chunk.dtype).T @ chunk


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
