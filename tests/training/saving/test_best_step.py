"""Which step is the best one, and when training has stopped improving."""

import pytest

from sft_app.training.saving.best_step import (
    Measured,
    best_of,
    has_stopped_improving,
    measurements,
)


def of(*losses: float) -> list[Measured]:
    return measurements(
        [{"loss": 9.0, "step": 0}, *({"eval_loss": x, "step": n} for n, x in enumerate(losses, 1))]
    )


def test_the_lowest_loss_wins_and_of_equal_ones_the_first() -> None:
    assert best_of(of(3, 2, 2, 4)) == Measured(2, 2)
    assert best_of(of()) is None


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([3, 2, 1], 1, False),
        ([3, 2, 2], 1, True),  # no lower is not lower
        ([3, 2, 4, 1], 2, False),
        ([3, 1, 4, 2], 2, True),  # 2 is lower than 4, and not than the lowest
        ([3, 1, 4, 5, 6], None, False),
        ([], 1, False),
    ],
)
def test_training_ends_after_so_many_measurements_that_were_no_lower_than_the_lowest(
    losses: list[float], patience: int | None, ends: bool
) -> None:
    assert has_stopped_improving(of(*losses), patience) is ends
