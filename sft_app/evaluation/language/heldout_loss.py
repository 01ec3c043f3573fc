"""Loss on held-out conversations, each supervised token weighted equally."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sft_app.data.labels import IGNORE_INDEX
from sft_app.evaluation.language.text_digest import text_digest
from sft_app.evaluation.token_reader import TokenReader
from sft_app.records.result import LossMeasurement

Batch = dict[str, Tensor]


def measure_loss(
    reader: TokenReader,
    examples: Sequence[Batch],
    *,
    pad_token_id: int,
    batch_size: int = 1,
    after_batch: Callable[[], object] | None = None,
) -> LossMeasurement:
    """Return the mean cross-entropy over the supervised tokens, whatever the batch size.

    `examples` hold `input_ids` and `labels`, LongTensors [T] with IGNORE_INDEX where nothing is
    supervised, unshifted. Ranks share the examples out, and all get the same answer. `after_batch`
    is called after each batch, for whoever waits.
    """
    batches = _batches(examples, batch_size, of_one_length=reader.follows_length)
    sums = torch.zeros(2, dtype=torch.float64)  # nats, tokens
    for number, counts in reader.split.turns(len(batches)):
        batch = [examples[i] for i in batches[number]]
        input_ids, wanted = _right_padded(batch, pad_token_id)
        nats = reader.losses(input_ids, wanted).double().sum()
        if counts:
            sums[0] += nats
        if after_batch is not None:
            after_batch()
    nats_in_all, _ = reader.split.sum(sums, reader.device).tolist()
    tokens = sum(int((e["labels"][1:] != IGNORE_INDEX).sum()) for e in examples)
    loss = nats_in_all / tokens if tokens else math.nan
    return LossMeasurement(
        loss=loss,
        perplexity=perplexity(loss),
        tokens=tokens,
        examples=len(examples),
        text=text_digest(e[key] for e in examples for key in ("input_ids", "labels")),
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


def perplexity(loss: float) -> float:
    """Return exp(loss), infinity where it is beyond a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _batches(examples: Sequence[Batch], batch_size: int, *, of_one_length: bool) -> list[list[int]]:
    """Return the numbers of examples of similar lengths, or of one length each, by batch."""
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i]["labels"]))
    batches: list[list[int]] = []
    for i in by_length:
        last = batches[-1] if batches else []
        fits = 0 < len(last) < batch_size
        if fits and of_one_length:
            fits = len(examples[i]["labels"]) == len(examples[last[0]]["labels"])
        if fits:
            last.append(i)
        else:
            batches.append([i])
    return batches


def _right_padded(batch: list[Batch], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """input_ids [B, T], and which tokens but the first are supervised [B, T-1].

    No mask is needed: a causal model's earlier positions never see the padding on the right.
    """
    longest = max(len(example["input_ids"]) for example in batch)
    input_ids = torch.full((len(batch), longest), pad_token_id)
    wanted = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, example in enumerate(batch):
        length = len(example["input_ids"])
        input_ids[row, :length] = torch.as_tensor(example["input_ids"])
        wanted[row, :length] = torch.as_tensor(example["labels"]) != IGNORE_INDEX
    return input_ids, wanted[:, 1:]
