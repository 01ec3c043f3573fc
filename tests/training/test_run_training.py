"""What is said of a whole run."""

import math

from sft_app.training.run_training import losses_of_steps


def test_a_logged_loss_stands_for_all_steps_since_the_line_before() -> None:
    """Lines stand beside checkpoints and measurements as well, with fewer steps between them."""
    logged = [
        {"step": 3, "loss": 5.3},
        {"step": 4, "loss": 4.6},
        {"step": 4, "eval_loss": 4.4},
        {"step": 6, "loss": 4.2},
        {"step": 7, "loss": math.nan},
        {"step": 8, "loss": 4.0},
        {"step": 8, "train_runtime": 1.0},
    ]
    assert losses_of_steps(logged) == [5.3, 5.3, 5.3, 4.6, 4.2, 4.2, 4.0]
