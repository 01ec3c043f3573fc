"""Perplexity on held-out examples, each supervised token weighted equally."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sft_app.common import ranks
from sft_app.data.labels import IGNORE_INDEX, count_supervised
from sft_app.records.result import LossMeasurement

Batch = dict[str, Tensor]


@torch.no_grad()
def measure_loss(
    model: nn.Module,
    examples: Sequence[Batch],
    *,
    pad_token_id: int,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    together: bool = False,
) -> LossMeasurement:
    """Return the mean cross-entropy over the supervised tokens, whatever the batch size.

    `examples` hold `input_ids` and `labels`, LongTensors [T] with IGNORE_INDEX where nothing is
    supervised, unshifted. Ranks share the examples out, and all get the same answer; with
    `together` they hold one model between them, and all work on every example. The model's loss is
    asked for, not its logits, so a head that works in chunks is used as in training.
    """
    rank, world_size = rank_and_world_size(together)
    mine = sorted(range(rank, len(examples), world_size), key=lambda i: len(examples[i]["labels"]))
    # Every rank makes as many forwards, as sharded models need: the surplus ones do not count.
    forwards = math.ceil(math.ceil(len(examples) / world_size) / batch_size)
    sums = torch.zeros(3, dtype=torch.float64)  # nats, tokens, examples
    was_training = model.training
    model.eval()
    try:
        for turn in range(forwards):
            batch = [examples[i] for i in mine[turn * batch_size : (turn + 1) * batch_size]]
            measured = batch or examples[:1]
            nats = _sum_of_losses(model, list(measured), pad_token_id, torch.device(device))
            if batch:
                sums += nats
    finally:
        model.train(was_training)
    if world_size > 1:
        shared = sums.to(device)
        dist.all_reduce(shared)
        sums = shared.cpu()
    nats, tokens, count = sums.tolist()
    loss = nats / tokens if tokens else math.nan
    return LossMeasurement(
        loss=loss, perplexity=perplexity(loss), tokens=int(tokens), examples=int(count)
    )


def limit_tokens(examples: Sequence[Batch], max_tokens: int | None) -> list[Batch]:
    """Return the first examples with `max_tokens` positions in all; at least one of any."""
    chosen: list[Batch] = []
    total = 0
    for example in examples:
        total += len(example["input_ids"])
        if chosen and max_tokens is not None and total > max_tokens:
            break
        chosen.append(example)
    return chosen


def _sum_of_losses(
    model: nn.Module, batch: list[Batch], pad_token_id: int, device: torch.device
) -> Tensor:
    """[nats, tokens, examples] of one right-padded batch."""
    lengths = [len(example["input_ids"]) for example in batch]
    shape = (len(batch), max(lengths))
    input_ids = torch.full(shape, pad_token_id)
    labels = torch.full(shape, IGNORE_INDEX)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    for row, (example, length) in enumerate(zip(batch, lengths, strict=True)):
        input_ids[row, :length] = torch.as_tensor(example["input_ids"])
        labels[row, :length] = torch.as_tensor(example["labels"])
        attention_mask[row, :length] = 1
    # A full mask is left out: kernels without a mask are faster, and the result is the same.
    mask = None if len(set(lengths)) == 1 else attention_mask.to(device)
    inputs = {"input_ids": input_ids.to(device), "labels": labels.to(device)}
    mean = model(**inputs, attention_mask=mask, use_cache=False).loss.item()
    tokens = count_supervised(labels)
    nats = mean * tokens if tokens else 0.0  # of no tokens, some models return NaN
    return torch.tensor([nats, tokens, len(batch)], dtype=torch.float64)


def rank_and_world_size(together: bool = False) -> tuple[int, int]:
    """Return this rank's number among those that share the examples out, and how many they are.

    `together`: the ranks hold one model between them, and count as one.
    """
    return (0, 1) if together else (ranks.rank(), ranks.world_size())


def perplexity(loss: float) -> float:
    """Return exp(loss), infinity where it is beyond a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
