"""Perplexity by context length: what a model makes of the first n tokens of long documents."""

import math

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from sft_app.evaluation.long_documents import LongDocuments
from sft_app.evaluation.perplexity import perplexity, rank_and_world_size
from sft_app.records.result import LossMeasurement


@torch.no_grad()
def measure_by_length(
    model: PreTrainedModel,
    long: LongDocuments,
    device: torch.device | str,
    together: bool = False,
) -> dict[str, LossMeasurement]:
    """Return, by length, the mean loss over the predictions inside each document's first tokens.

    One forward per length, for the frequencies of some methods follow the length. The model's loss
    is asked for, not its logits, so a head that works in chunks is used as in training. Ranks share
    the documents out, or work `together` on each, and all get the same answer.
    """
    was_training = model.training
    model.eval()
    try:
        return {
            str(length): _at_length(model, long, length, device, together)
            for length in long.lengths
        }
    finally:
        model.train(was_training)


def _at_length(
    model: PreTrainedModel,
    long: LongDocuments,
    length: int,
    device: torch.device | str,
    together: bool,
) -> LossMeasurement:
    rank, world_size = rank_and_world_size(together)
    count = len(long.documents)
    nats = torch.zeros((), dtype=torch.float64)
    # Every rank makes as many forwards, as sharded models need: the surplus ones do not count.
    for turn in range(math.ceil(count / world_size)):
        number = turn * world_size + rank
        tokens = long.documents[number % count][:length].unsqueeze(0).to(device)
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        if number < count:
            nats += loss.double().cpu() * (length - 1)
    if world_size > 1:
        shared = nats.to(device)
        dist.all_reduce(shared)
        nats = shared.cpu()
    predictions = count * (length - 1)
    loss = nats.item() / predictions
    return LossMeasurement(
        loss=loss, perplexity=perplexity(loss), tokens=predictions, examples=count
    )
