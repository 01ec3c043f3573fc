"""The learning rate of each optimizer step: transformers' schedules, without their idle first step.

transformers warms up from 0, so that the first step of every run changes nothing: a whole forward
and backward pass for nothing, and in a run of one step the whole training.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments, get_scheduler

Factor = Callable[[int], float]
"""Step (0 is the first) -> share of the peak learning rate."""


def without_idle_step(schedule: LRScheduler, optimizer: Optimizer, warmup: int) -> LRScheduler:
    """Return `schedule` with a warm-up from 0 that begins at peak / `warmup` steps instead.

    Step k (from 1) of the warm-up runs at what the schedule has after k steps, k / `warmup` of the
    peak unless it rises otherwise; what follows is unchanged. Schedules that warm up from another
    value, and those without one, stay as they are.
    """
    if not isinstance(schedule, LambdaLR) or warmup < 1:
        return schedule
    factors: list[Factor] = [_without_idle_step(f, warmup) for f in schedule.lr_lambdas]
    return LambdaLR(optimizer, factors)


def learning_rate_sum(args: TrainingArguments, num_training_steps: int) -> float | None:
    """Return the sum over all steps of the learning rate, in units of the peak; None: not known.

    10 steps at the peak make 10. Schedules that react to what they see cannot be summed up before.
    """
    warmup = args.get_warmup_steps(num_training_steps)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule: LRScheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=warmup,
        num_training_steps=num_training_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    schedule = without_idle_step(schedule, optimizer, warmup)
    if not isinstance(schedule, LambdaLR):
        return None
    (factor,) = schedule.lr_lambdas
    return float(sum(factor(step) for step in range(num_training_steps)))


def _without_idle_step(factor: Factor, warmup: int) -> Factor:
    return partial(_warm_from_one, factor, warmup) if factor(0) == 0 else factor


def _warm_from_one(factor: Factor, warmup: int, step: int) -> float:
    if step + 1 == warmup:  # a schedule may have come to its end there
        return 1.0
    return factor(step + 1 if step < warmup else step)
