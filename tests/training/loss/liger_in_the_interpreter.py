"""Run by test_liger_head.py with TRITON_INTERPRET=1: liger's kernels on CPU tensors, against ours.

Prints one line per thing that holds.
"""

import torch
from torch.nn import functional as F

from sft_app.config.schema.trainer import LossHead
from sft_app.training.loss.choose_loss import LossPlan
from sft_app.training.loss.chunked_cross_entropy import chunked_cross_entropy
from sft_app.training.loss.liger_cross_entropy import liger_cross_entropy
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.training.random_models import build_random_model

POSITIONS, HIDDEN, VOCABULARY = 37, 32, 97


def tensors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, HIDDEN).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN).to(dtype).requires_grad_()
    bias = torch.randn(VOCABULARY).to(dtype).requires_grad_()
    return hidden, weight, bias, torch.randint(VOCABULARY, (POSITIONS,))


def check_loss_and_gradients(with_bias: bool) -> None:
    hidden, weight, bias, targets = tensors()
    inputs = (hidden, weight, bias) if with_bias else (hidden, weight)
    added = bias if with_bias else None
    plain = F.cross_entropy(F.linear(hidden, weight, added), targets, reduction="sum") / 7
    chunked = chunked_cross_entropy(hidden, weight, targets, bias=added) / 7
    fused = liger_cross_entropy(hidden, weight, targets, added) / 7
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(fused, chunked, rtol=1e-5, atol=0)
    expected = torch.autograd.grad(plain, inputs)
    for gradient, wanted in zip(torch.autograd.grad(fused, inputs), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
    print(f"loss and gradients equal, {with_bias=}")


def check_frozen_parts() -> None:
    hidden, weight, _, targets = tensors()
    liger_cross_entropy(hidden, weight.detach(), targets).backward()
    assert hidden.grad is not None
    assert weight.grad is None
    liger_cross_entropy(hidden.detach(), weight, targets).backward()
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    (wanted,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(weight.grad, wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not liger_cross_entropy(hidden, weight, targets).requires_grad
    print("frozen parts have no gradient")


def check_no_positions() -> None:
    hidden, weight, bias, targets = tensors()
    loss = liger_cross_entropy(hidden[:0], weight, targets[:0], bias)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None and not hidden.grad.any()
    assert weight.grad is not None and not weight.grad.any()
    print("no positions, no loss")


def check_autocast() -> None:
    hidden, weight, _, targets = tensors()
    with torch.autocast("cpu", dtype=torch.float16):
        plain = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
        fused = liger_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=0)
    expected = torch.autograd.grad(plain, (hidden, weight))
    gradients = torch.autograd.grad(fused, (hidden, weight))
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, wanted, rtol=5e-3, atol=5e-3)
    print("autocast equal")


def check_model() -> None:
    tokens = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    results = []
    for head in (LossHead.model, LossHead.liger):
        model = build_random_model("llama")
        choice = install_chunked_loss(model, LossPlan(head, "a test", asked_for=True))
        assert choice.head is head
        loss = model(tokens, labels=tokens, num_items_in_batch=30).loss
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for own, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, own, rtol=1e-4, atol=1e-5)
    print(f"model equal: {choice}")


if __name__ == "__main__":
    check_loss_and_gradients(with_bias=False)
    check_loss_and_gradients(with_bias=True)
    check_frozen_parts()
    check_no_positions()
    check_autocast()
    check_model()
