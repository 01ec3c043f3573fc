"""What a resume does to the learning rate, where the run is to take more or fewer steps.

The schedule is that of the new number of steps, as if it had been planned so from the start. The
optimizer of a checkpoint still holds the rate of the old one, which may be nothing at its end.
"""

import json
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR


def fit_learning_rate(schedule: Any, checkpoint: Path, max_steps: int) -> str | None:
    """Give the next step the rate of `schedule`, and say what changes; None: nothing does.

    `schedule` has taken over the state of `checkpoint`; `max_steps`: optimizer steps of the run
    that goes on. Schedules that react to what they see have no rate for a step, and stay as they
    are.
    """
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    planned = state.get("max_steps")
    if planned in (None, max_steps) or not isinstance(schedule, LambdaLR):
        return None
    groups, step = schedule.optimizer.param_groups, schedule.last_epoch
    before = groups[0]["lr"]
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * factor(step)
    return (
        f"at step {step:,} of {max_steps:,}, and no longer of {planned:,}: the schedule is that of "
        f"{max_steps:,} steps from the start, so that the learning rate goes on at "
        f"{groups[0]['lr']:.3g} where it stood at {before:.3g}"
    )
