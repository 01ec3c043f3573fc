"""What a resume does to the optimizer's settings: those of the run that goes on hold.

An optimizer's state holds the settings that it was made with beside its moments, and a schedule's
the peak that it began from. Both come back with a checkpoint, so that a run that goes on with
another learning rate or weight decay (trainer.resume_anyway=true) would train with the old ones.

The schedule is that of the new number of steps, as if it had been planned so from the start: the
optimizer of a checkpoint still holds the rate of the old one, which may be nothing at its end.
A schedule that reacts to what it sees has no rate for a step: of another learning rate it goes on
at the share that it has come to.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

GIVEN = ("weight_decay", "betas", "eps", "momentum", "dampening", "nesterov", "alpha", "beta1",
         "beta2", "clip_threshold", "decay_rate", "lr_decay")  # fmt: skip
"""What optimizers keep of their settings in a group of parameters. Not all that stands there is
one: some count their steps in it."""


PEAKS, RATES = "_init_lrs", "_last_lr"
"""In the state of a schedule that reacts: the rates that it began from, and those that hold now,
one for each group. GreedyLR keeps both; ReduceLROnPlateau whatever it is given."""


def note_peaks(schedule: Any, optimizer: Any) -> None:
    """Have a schedule that reacts to what it sees keep the rates that it begins from."""
    if not isinstance(schedule, LambdaLR):
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        schedule.load_state_dict({**schedule.state_dict(), PEAKS: peaks, RATES: peaks})


@dataclass(frozen=True)
class GivenSettings:
    """What an optimizer and its schedule were made with, before they take over a checkpoint's."""

    groups: list[dict[str, Any]]
    peaks: list[float]
    """Of the learning rate, one for each group."""

    @classmethod
    def of(cls, optimizer: Any, schedule: Any) -> Self:
        """Note those of an optimizer, and of the schedule of its learning rate."""
        groups = [
            {name: value for name, value in group.items() if name in GIVEN}
            for group in optimizer.param_groups
        ]
        if isinstance(schedule, LambdaLR):
            return cls(groups, [float(peak) for peak in schedule.base_lrs])
        return cls(groups, [float(group["lr"]) for group in optimizer.param_groups])

    def put_back(self, optimizer: Any, schedule: Any) -> list[str]:
        """Give them to an optimizer and a schedule that have taken over a checkpoint; say which."""
        changed: dict[str, str] = {}
        for group, given in zip(optimizer.param_groups, self.groups, strict=True):
            for name, value in given.items():
                was = group.get(name)
                if name in group and _as_list(was) != _as_list(value):
                    changed[name] = f"{name} {value} in the place of {was}"
                group[name] = value
        if isinstance(schedule, LambdaLR):
            schedule.base_lrs = list(self.peaks)
        elif (said := self._scale(optimizer, schedule)) is not None:
            changed["lr"] = said
        return list(changed.values())

    def _scale(self, optimizer: Any, schedule: Any) -> str | None:
        """Give a schedule that reacts these peaks in the place of those that it began from."""
        began_from = schedule.state_dict().get(PEAKS, self.peaks)
        if began_from == self.peaks:
            return None
        groups = optimizer.param_groups
        before = [float(group["lr"]) for group in groups]
        rates = [
            rate * now / then if then else now
            for rate, now, then in zip(before, self.peaks, began_from, strict=True)
        ]
        schedule.load_state_dict({**schedule.state_dict(), PEAKS: self.peaks, RATES: rates})
        for group, rate in zip(groups, rates, strict=True):
            _set_rate(group, rate)
        return (
            f"the learning rate at {rates[0]:.3g} where it stood at {before[0]:.3g}: the "
            f"same share of {self.peaks[0]:.3g} as of {began_from[0]:.3g}"
        )


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):  # torchao's optimizers take no other
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _as_list(value: Any) -> Any:
    """Return a tuple as the list that it may have been saved as."""
    return list(value) if isinstance(value, tuple) else value


def fit_learning_rate(schedule: Any, checkpoint: Path, max_steps: int) -> str | None:
    """Give the next step the rate of `schedule`, and say what changes; None: nothing does.

    `schedule` has taken over the state of `checkpoint`, and has the peaks of the run that goes on;
    `max_steps`: optimizer steps of that run. Schedules that react to what they see have no rate for
    a step, and stay as they are.
    """
    if not isinstance(schedule, LambdaLR):
        return None
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    planned = state.get("max_steps")
    groups, step = schedule.optimizer.param_groups, schedule.last_epoch
    before = float(groups[0]["lr"])
    peaks_and_factors = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    rates = [float(peak) * factor(step) for peak, factor in peaks_and_factors]
    for group, rate in zip(groups, rates, strict=True):
        _set_rate(group, rate)
    schedule.load_state_dict({**schedule.state_dict(), "_last_lr": rates})  # which is logged
    now = float(groups[0]["lr"])
    goes_on = f"the learning rate goes on at {now:.3g} where it stood at {before:.3g}"
    if planned not in (None, max_steps):
        return (
            f"at step {step:,} of {max_steps:,}, and no longer of {planned:,}: the schedule is "
            f"that of {max_steps:,} steps from the start, so that {goes_on}"
        )
    if math.isclose(now, before, rel_tol=1e-6):
        return None
    return f"at step {step:,}: by the settings of this run {goes_on}"
