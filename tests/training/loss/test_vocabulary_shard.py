"""Two ranks with half of the words each have the loss and the gradients of the whole head."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from sft_app.loader.model.logit_transform import LogitTransform
from sft_app.training.loss.chunked_cross_entropy import chunked_cross_entropy
from sft_app.training.loss.vocabulary_shard import vocabulary_shard
from tests.forked_ranks import on_two_forked_ranks

WORDS, HIDDEN, POSITIONS = 31, 8, 20  # shards of 16 and 15 words
TRANSFORM = LogitTransform(scale=2.0, softcap=3.0)


def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "hidden": torch.randn(POSITIONS, HIDDEN, requires_grad=True),
        "weight": torch.randn(WORDS, HIDDEN, requires_grad=True),
        "bias": torch.randn(WORDS, requires_grad=True),
        "targets": torch.randint(WORDS, (POSITIONS,)),
        "token_weights": torch.rand(POSITIONS),
    }


def in_shards(frozen_head: bool) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    given = inputs()
    weight = distribute_tensor(given["weight"].detach(), mesh, [Shard(0)])
    bias = distribute_tensor(given["bias"].detach(), mesh, [Shard(0)])
    leaves = [weight.requires_grad_(not frozen_head), bias.requires_grad_(not frozen_head)]
    shard = vocabulary_shard(weight)
    assert shard is not None
    loss = chunked_cross_entropy(
        given["hidden"], weight.to_local(), given["targets"], bias=bias.to_local(),
        token_weights=given["token_weights"], transform=TRANSFORM, chunk_rows=7, shard=shard,
    )  # fmt: skip
    (loss / 3).backward()
    found = {"loss": loss.item(), "hidden": given["hidden"].grad}
    if not frozen_head:
        for name, leaf in zip(("weight", "bias"), leaves, strict=True):
            assert isinstance(leaf.grad, DTensor)
            found[name] = leaf.grad.full_tensor()
    return {n: v.numpy() if isinstance(v, torch.Tensor) else v for n, v in found.items()}


@pytest.mark.parametrize("frozen_head", [False, True])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(frozen_head: bool) -> None:
    plain = inputs()
    logits = 2.0 * F.linear(plain["hidden"], plain["weight"], plain["bias"])
    terms = F.cross_entropy(3.0 * torch.tanh(logits / 3.0), plain["targets"], reduction="none")
    loss = (terms * plain["token_weights"]).sum()
    (loss / 3).backward()
    for found in on_two_forked_ranks(in_shards, frozen_head):
        assert found.pop("loss") == pytest.approx(loss.item(), rel=1e-5)
        assert set(found) == ({"hidden"} if frozen_head else {"hidden", "weight", "bias"})
        for name, gradient in found.items():
            torch.testing.assert_close(
                torch.from_numpy(gradient), plain[name].grad, atol=1e-5, rtol=1e-5
            )


def largest_tensor() -> int:
    """Elements of the largest tensor that the loss makes: neither a head nor its gradient."""
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    words, positions = 4096, 64
    weight = distribute_tensor(torch.randn(words, 16), mesh, [Shard(0)])
    hidden = torch.randn(positions, 16, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        chunked_cross_entropy(
            hidden, weight.to_local().requires_grad_(), torch.arange(positions), chunk_rows=4,
            shard=vocabulary_shard(weight),
        ).backward()  # fmt: skip
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(event.nbytes() for event in events) // 4


def test_no_rank_ever_has_the_whole_head() -> None:
    for largest in on_two_forked_ranks(largest_tensor):
        assert largest <= 2048 * 16, "half of the words"


def shards_of_other_kinds() -> list[bool]:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    fsdp = init_device_mesh("cpu", (2,))
    weight = torch.randn(4, 2)
    dist.barrier()
    return [
        vocabulary_shard(other) is None
        for other in (
            weight,
            distribute_tensor(weight, mesh, [Replicate()]),
            distribute_tensor(weight, mesh, [Shard(1)]),
            distribute_tensor(weight, fsdp, [Shard(0)]),
            distribute_tensor(torch.randn(1, 2), mesh, [Shard(0)]),  # a rank without a word
        )
    ]


def test_heads_that_are_whole_or_cut_otherwise_are_no_shards() -> None:
    for answers in on_two_forked_ranks(shards_of_other_kinds):
        assert all(answers)
