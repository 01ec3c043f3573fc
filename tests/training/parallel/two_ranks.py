"""Run by test_two_ranks.py on two gloo ranks; prints one line per thing that holds."""

import sys
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sft_app.compat.python_internals import end_process
from sft_app.data.batches.datasets import CONVERSATION_SHARE
from tests.training.random_models import build_random_model
from tests.training.training_steps import (
    collate,
    mean_over_conversations,
    packed_rows,
    prepared,
    trainer_of,
    with_conversation_shares,
)

ROWS = packed_rows(8)
NUM_ITEMS = sum(int((row["labels"] != -100).sum()) for row in ROWS)


def single_process_reference() -> tuple[float, dict[str, torch.Tensor]]:
    model = build_random_model("llama", attention="sdpa")
    loss = model(**collate(ROWS), num_items_in_batch=NUM_ITEMS).loss
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients


def check_ddp(directory: Path) -> None:
    expected, gradients = single_process_reference()
    start = dict(build_random_model("llama").named_parameters())
    trainer = trainer_of(
        prepared(build_random_model("llama")),
        directory,
        ROWS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        optim="sgd",
        max_grad_norm=0.0,
    )
    trainer.train()
    assert abs(trainer.state.log_history[0]["loss"] - expected) < 1e-5
    assert trainer.count.tokens.total == 8 * 24
    for name, parameter in trainer.model.named_parameters():
        step = start[name] - 1e-2 * gradients[name]
        torch.testing.assert_close(parameter, step, atol=1e-5, rtol=1e-4)
    wrapper = weakref.ref(trainer.model_wrapped)
    assert isinstance(wrapper(), DistributedDataParallel)
    trainer.release_training_state()
    assert wrapper() is None, "it would outlive its process group, and could wait for it forever"
    print(f"rank {dist.get_rank()}: DDP equals one process", flush=True)


def check_conversations(directory: Path) -> None:
    """Two ranks and two micro-batches: conversations count the same over all of them."""
    rows = with_conversation_shares(packed_rows(8))
    own = build_random_model("llama", attention="sdpa")
    expected = mean_over_conversations(own, rows)
    expected.backward()
    trainer = trainer_of(
        prepared(build_random_model("llama")),
        directory,
        rows,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        optim="sgd",
        max_grad_norm=0.0,
    )
    trainer.train()
    assert abs(trainer.state.log_history[0]["loss"] - expected.item()) < 1e-5
    for name, parameter in own.named_parameters():
        step = parameter - 1e-2 * parameter.grad
        torch.testing.assert_close(trainer.model.get_parameter(name), step, atol=1e-5, rtol=1e-4)
    trainer.release_training_state()
    print(f"rank {dist.get_rank()}: conversations equal one process", flush=True)


def check_conversations_in_shards() -> None:
    """The same with parameters in shards; each rank has half of the rows."""
    rows = with_conversation_shares(packed_rows(8))
    own = build_random_model("llama", attention="sdpa")
    expected = mean_over_conversations(own, rows)
    expected.backward()
    model: Any = prepared(build_random_model("llama")).model.train()
    for layer in model.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    mine = collate(rows[4 * dist.get_rank() :][:4])
    share = mine.pop(CONVERSATION_SHARE)
    number = share.sum()
    dist.all_reduce(number)
    loss = model(**mine, loss_weights=share, num_items_in_batch=number).loss
    (loss * 2).backward()  # FSDP averages over the ranks what is to be summed
    total = loss.detach().clone()
    dist.all_reduce(total)
    assert abs(total.item() - expected.item()) < 1e-5
    for name, parameter in own.named_parameters():
        ours = model.get_parameter(name).grad.full_tensor()
        torch.testing.assert_close(ours, parameter.grad, atol=1e-5, rtol=1e-4)
    print(f"rank {dist.get_rank()}: conversations in shards equal one process", flush=True)


def check_fsdp(*, shard_head: bool) -> None:
    """With the head in a group of its own its weight is a shard, and the model's own loss runs."""
    expected, gradients = single_process_reference()
    model: Any = prepared(build_random_model("llama")).model.train()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    if shard_head:
        fully_shard(model.lm_head, mesh=mesh)
    fully_shard(model, mesh=mesh)
    mine = ROWS[4 * dist.get_rank() :][:4]

    loss = model(**collate(mine), num_items_in_batch=NUM_ITEMS).loss
    (loss * 2).backward()  # FSDP averages over the ranks what is to be summed

    total = loss.detach().clone()
    dist.all_reduce(total)
    assert abs(total.item() - expected) < 1e-5
    for name, parameter in model.named_parameters():
        ours = parameter.grad.full_tensor()
        torch.testing.assert_close(ours, gradients[name], atol=1e-5, rtol=1e-4)
    print(f"rank {dist.get_rank()}: FSDP2 equals one process, {shard_head=}", flush=True)


if __name__ == "__main__":
    check_ddp(Path(sys.argv[1]))
    check_conversations(Path(sys.argv[1]))
    check_conversations_in_shards()
    check_fsdp(shard_head=False)
    check_fsdp(shard_head=True)
    dist.destroy_process_group()
    end_process(0)
