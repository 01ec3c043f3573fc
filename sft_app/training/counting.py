"""What a micro-batch consists of, counted before anything is done to it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sft_app.training.documents import lengths_of_batch
from sft_app.training.flops import ModelShape, flops_of_batch

Batch = dict[str, Tensor]
Collate = Callable[[list[Batch]], Batch]

REAL_TOKENS = "num_real_tokens"


@dataclass(frozen=True)
class CountingCollate:
    """Adds to each batch how many of its positions are data, which ids alone do not tell."""

    collate: Collate

    def __call__(self, examples: list[Batch]) -> Batch:
        real = sum(len(example["input_ids"]) for example in examples)
        return {**self.collate(examples), REAL_TOKENS: torch.tensor(real)}


def counts_of_batch(batch: Batch, shape: ModelShape) -> tuple[int, int, int, int]:
    """Positions, supervised tokens, tokens of data, and FLOPs of a batch [B, T] as collated."""
    supervised = int((batch["labels"][:, 1:] != -100).sum())
    return (
        batch["input_ids"].numel(),
        supervised,
        int(batch[REAL_TOKENS]),
        flops_of_batch(shape, lengths_of_batch(batch), supervised),
    )
