"""Cells of a sweep that learn from equal numbers of tokens."""

import pytest

from sft_app.training.optim.supervised_budget import steps_for


@pytest.mark.parametrize(
    ("supervised", "rows", "rows_per_step", "steps"),
    [
        # As measured of the tiny Llama's data: rows of 256 tokens, and of 512.
        (24_203, 124, 8, 31),
        (50_310, 119, 4, 29),
        (10, 1, 1, 4_900),
        (10_000_000, 1, 1, 1),
    ],
)
def test_steps_follow_from_what_a_step_teaches(
    supervised: int, rows: int, rows_per_step: int, steps: int
) -> None:
    found = steps_for(
        49_000, supervised_tokens=supervised, num_rows=rows, rows_per_step=rows_per_step
    )
    assert found == steps
    seen = found * supervised / rows * rows_per_step
    assert found == 1 or abs(seen / 49_000 - 1) < 0.02
