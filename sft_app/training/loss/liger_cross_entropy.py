"""liger-kernel's fused linear cross-entropy: Triton kernels, CUDA, our chunked one's contract.

cut-cross-entropy is not offered: what its registry has (25.1.1) sums the gradient of the hidden
states over blocks of the vocabulary in 16 bits, which at 131,072 words puts it some 4% off in
bfloat16 (one matrix product: 0.2%), and it masks the vocabulary's last block before soft-capping
it, so that the loss is wrong where the vocabulary is no multiple of 128.
"""

import torch

from sft_app.data.labels import IGNORE_INDEX


def liger_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the sum over M positions of -log softmax(hidden @ weight.T + bias)[target].

    In nats, float32.

    hidden [M, D], weight [V, D], targets [M], bias [V], on a CUDA device. As in the chunked one
    gradients are computed in the forward, those of weight and bias are summed in float32, a frozen
    weight has none, and under autocast the matmuls run in its dtype.
    """
    from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction

    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if torch.is_grad_enabled() and weight.requires_grad and not hidden.requires_grad:
        hidden = hidden.detach().requires_grad_()  # liger asks only it whether gradients are wanted
    if not len(targets):  # its kernels have no grid of size 0
        return (hidden.sum() + 0.0 * weight.sum()).float()
    with torch.autocast(hidden.device.type, enabled=False):
        loss, *_ = LigerFusedLinearCrossEntropyFunction.apply(
            hidden,
            weight,
            targets,
            bias,
            None,  # weights of classes
            IGNORE_INDEX,
            0.0,  # z-loss
            0.0,  # label smoothing
            "sum",
            None,  # soft-cap
            False,  # return the z-loss
            torch.float32,  # in which gradients of weight and bias are summed
        )
    assert isinstance(loss, torch.Tensor)
    return loss
