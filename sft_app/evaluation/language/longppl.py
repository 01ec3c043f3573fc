"""LongPPL: perplexity on the tokens that need the long context.

Fang et al. 2024, arXiv:2410.23771.
A key token is one that the long context makes much likelier, and likely (equations 5 to 7):
loss(short) - loss(full) > 2 and loss(full) < 2. The paper has them chosen by one strong model; here
each model chooses its own, so that nothing else has to be loaded.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sft_app.evaluation.language.by_length import document_losses
from sft_app.evaluation.language.heldout_loss import perplexity
from sft_app.evaluation.language.long_documents import LongDocuments
from sft_app.evaluation.token_reader import TokenReader

GAIN, LIKELY = 2.0, 2.0
"""Nats: of the long context, and of the loss that it leaves."""
SHORT = 4096
"""Tokens of the short context; a quarter of the length where that is less."""


def measure_longppl(reader: TokenReader, long: LongDocuments) -> dict[str, float | None]:
    """Return LongPPL by length; None where no token is a key token."""
    return {
        str(length): _at_length(reader, long.documents, length)
        for length in long.lengths
        if short_length(length) >= 2
    }


def short_length(length: int) -> int:
    """Return the tokens of the short context that a long one of `length` is compared with."""
    return min(SHORT, length // 4)


def long_perplexity(full: Tensor, short: Tensor) -> float | None:
    """Return the perplexity of the key tokens among losses [N, T-1] with full and short context.

    `short` is NaN where both contexts are the same: those tokens are no key tokens.
    """
    key = (short - full > GAIN) & (full < LIKELY)
    if not key.any():
        return None
    return perplexity(full[key].double().mean().item())


def _at_length(reader: TokenReader, documents: Sequence[Tensor], length: int) -> float | None:
    full = document_losses(reader, documents, length)
    return long_perplexity(full, short_losses(reader, documents, length))


def short_losses(reader: TokenReader, documents: Sequence[Tensor], length: int) -> Tensor:
    """Return losses [N, T-1] of tokens that see only a short context; NaN before it is full.

    As the authors compute it: windows slide by a quarter of the short context, and the tokens of
    that quarter, which stand behind a whole short context, are scored together.
    """
    short = short_length(length)
    step = max(1, short // 4)
    starts = range(0, length - short, step)
    whole = [(n, start) for start in starts[:-1] for n in range(len(documents))]
    last = [(n, starts[-1]) for n in range(len(documents))]  # which ends with the documents
    batches = [*_batches(whole, reader.rows_at_once(short + step)),
               *_batches(last, reader.rows_at_once(short + step))]  # fmt: skip
    found = torch.zeros(len(documents), length - 1)
    for turn, counts in reader.split.turns(len(batches)):
        chosen = batches[turn]
        size = min(short + step, length - chosen[0][1])
        rows = torch.stack([documents[number][start : start + size] for number, start in chosen])
        wanted = torch.zeros(len(rows), size - 1, dtype=torch.bool)
        wanted[:, short - 1 :] = True
        losses = reader.losses(rows, wanted)
        if counts:
            for (number, start), row in zip(chosen, losses, strict=True):
                found[number, start + short - 1 : start + size - 1] = row[short - 1 :]
    found = reader.split.sum(found, reader.device)
    found[:, : short - 1] = math.nan
    return found


def _batches(jobs: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]
