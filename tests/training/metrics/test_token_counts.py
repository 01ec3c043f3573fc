"""What a batch is counted as: tokens of data, and the operations that they take."""

import pytest
import torch

from sft_app.data.batches.collators import CollateDocuments, CollateExamples
from sft_app.data.batches.datasets import ITEM, STANDS_IN
from sft_app.training.attention.known_batch import KNOWN
from sft_app.training.metrics.flops import AttendingLayer, ModelShape
from sft_app.training.metrics.token_counts import CountingCollate, counts_of_batch

SHAPE = ModelShape(body_factor=6_000, head_factor=60, attention=(AttendingLayer(64),) * 2)
OF_ALL = 6_000 * (5 + 3 + 7) + 60 * (4 + 2 + 6) + 6 * 2 * 64 * (5**2 + 3**2 + 7**2)


def item(*documents: int, number: int = 0) -> dict[str, torch.Tensor]:
    positions = torch.cat([torch.arange(length) for length in documents])
    labels = torch.where(positions == 0, -100, 5)
    return {"input_ids": torch.ones_like(positions), "labels": labels,
            "position_ids": positions, ITEM: torch.tensor(number)}  # fmt: skip


PACKED = CollateDocuments(length=16, pad_token_id=0), [item(5, 3), item(7)], 32
PADDED = CollateExamples(pad_token_id=0), [item(5), item(3), item(7)], 21


@pytest.mark.parametrize(("collate", "items", "positions"), [PACKED, PADDED])
def test_the_same_documents_are_the_same_work_however_rows_are_filled_up(
    collate, items, positions
) -> None:
    batch = CountingCollate(collate)(items)
    assert counts_of_batch(batch[KNOWN], SHAPE) == (positions, 12, 15, OF_ALL)


def test_what_stands_in_for_a_missing_row_is_no_work() -> None:
    collate, items, positions = PACKED
    other = item(9, number=2)
    stand_in = other | {
        "labels": torch.full_like(other["labels"], -100), STANDS_IN: torch.tensor(True)
    }  # fmt: skip
    batch = CountingCollate(collate)([*items, stand_in])
    assert counts_of_batch(batch[KNOWN], SHAPE) == (positions + 16, 12, 15, OF_ALL)
