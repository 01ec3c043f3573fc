"""Equal training at every context length: the batch of a job follows from its length."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import Overlong, Packing
from sft_app.config.schema.sweep import Budget, SweepConfig
from sft_app.config.validation.check_parallel import check_tensor_parallel_size, check_world_size
from sft_app.launch.job.worker_processes import num_local_processes


def tokens_per_step(config: AppConfig) -> int:
    """Count what one optimizer step takes with the job's own settings, in packed rows."""
    trainer = config.trainer
    return config.context_length * trainer.per_device_train_batch_size * (
        trainer.gradient_accumulation_steps * num_groups(config)
    )  # fmt: skip


def num_groups(config: AppConfig) -> int:
    """Count the processes, or groups of processes sharing their rows, that read rows of their own.

    Raises ConfigError where the processes cannot be grouped as the trainer is asked to.
    """
    processes = num_local_processes(config.launch) * config.launch.nnodes
    check_world_size(config.trainer.context_parallel_size, processes)
    check_tensor_parallel_size(config.trainer.tensor_parallel_size, processes)
    return processes // (config.trainer.context_parallel_size * config.trainer.tensor_parallel_size)


def shared_tokens_per_step(configs: Sequence[AppConfig]) -> int:
    """Return what the longest jobs take in one step: the shorter ones get more rows to match.

    Raises ConfigError when the longest ones disagree.
    """
    longest = max(config.context_length for config in configs)
    found = {tokens_per_step(c) for c in configs if c.context_length == longest}
    if len(found) > 1:
        raise ConfigError(
            f"sweep.budget: the jobs at context_length={longest} take different numbers of tokens "
            f"per optimizer step ({', '.join(map(str, sorted(found)))}): say which number holds "
            "for all with sweep.tokens_per_step=..."
        )
    return found.pop()


def shared_settings(configs: Sequence[AppConfig]) -> dict[str, Any]:
    """Return the settings of `sweep` that all jobs share, filled in where they are not given.

    Raises ConfigError where the jobs disagree about them.
    """
    sweep = configs[0].sweep
    per_step = sweep.tokens_per_step
    if sweep.budget is not Budget.own and per_step is None:
        per_step = shared_tokens_per_step(configs)
    return {
        "lengths": sweep.lengths or sorted({config.context_length for config in configs}),
        "heldout_length": sweep.heldout_length or min(config.context_length for config in configs),
        "tokens_per_step": per_step,
    }


def with_shared(config: AppConfig, shared: Mapping[str, Any]) -> AppConfig:
    """Return a job of a sweep with what it shares with the others, and its budget applied."""
    return apply_budget(
        dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, **shared))
    )


def apply_budget(config: AppConfig) -> AppConfig:
    """Return the configuration with the batch and the number of steps that `sweep.budget` wants.

    Raises ConfigError when this length cannot have the shared number of tokens per step.
    """
    sweep = config.sweep
    if sweep.budget is Budget.own:
        return config
    if config.data.packing is Packing.none:
        raise ConfigError(
            f"sweep.budget={sweep.budget} counts packed rows: set data.packing=best_fit, or "
            "sweep.budget=own."
        )
    per_step = sweep.tokens_per_step or tokens_per_step(config)
    per_row = config.context_length * num_groups(config)
    if per_step % per_row:
        raise ConfigError(
            f"sweep.tokens_per_step={per_step} is no whole number of rows of context_length="
            f"{config.context_length} for each of {num_groups(config)} processes, or groups of "
            f"them: choose a multiple of {per_row}."
        )
    rows = per_step // per_row
    accumulated = _accumulation(rows, config.trainer.gradient_accumulation_steps)
    trainer = dataclasses.replace(
        config.trainer,
        per_device_train_batch_size=rows // accumulated,
        gradient_accumulation_steps=accumulated,
        max_steps=_max_steps(config, per_step),
    )
    return dataclasses.replace(config, trainer=trainer)


def _accumulation(rows: int, wanted: int) -> int:
    """Return the smallest divisor of `rows` from `wanted` on: no pass takes more tokens than the
    longest job's."""
    return next((n for n in range(wanted, rows) if rows % n == 0), rows)


def _max_steps(config: AppConfig, per_step: int) -> int:
    sweep, max_steps = config.sweep, config.trainer.max_steps
    match sweep.budget:
        case Budget.tokens:
            if sweep.tokens is None or sweep.tokens < per_step:
                raise ConfigError(
                    f"sweep.budget=tokens needs sweep.tokens, at least one step's {per_step}: "
                    f"sweep.tokens={100 * per_step}, for example."
                )
            return -(-sweep.tokens // (per_step * _share_of_rung(sweep)))
        case Budget.supervised:
            if sweep.supervised_tokens is None:
                raise ConfigError(
                    "sweep.budget=supervised needs sweep.supervised_tokens: "
                    f"sweep.supervised_tokens={50 * per_step}, for example."
                )
            if max_steps != -1:
                raise ConfigError(
                    f"sweep.budget=supervised, but trainer.max_steps={max_steps} ends training: "
                    "leave it out, or choose sweep.budget=steps."
                )
            return -1  # known when the data is: training takes as many as the tokens need
        case Budget.steps:
            if max_steps < 1:
                raise ConfigError(
                    "sweep.budget=steps needs the number of steps: trainer.max_steps=100."
                )
            return max_steps
        case _:
            if max_steps != -1:
                raise ConfigError(
                    f"sweep.budget=epochs, but trainer.max_steps={max_steps} ends training: leave "
                    "it out, or choose sweep.budget=steps."
                )
            if config.data.overlong is not Overlong.split:
                raise ConfigError(
                    f"sweep.budget=epochs with data.overlong={config.data.overlong.value} trains "
                    "on different tokens at each length: set data.overlong=split, or choose "
                    "sweep.budget=tokens."
                )
            return -1


def _share_of_rung(sweep: SweepConfig) -> int:
    """Return n, where a job of this rung of successive halving trains the n-th part."""
    rung = sweep.rungs - 1 if sweep.rung is None else sweep.rung
    return int(sweep.keep_one_in ** (sweep.rungs - 1 - rung))


def describe_budget(configs: Sequence[AppConfig]) -> str:
    """Say in one line what every job trains on; `configs` have their budget applied."""
    first = configs[0]
    per_step = tokens_per_step(first)
    total = f"{first.trainer.num_train_epochs:g} epochs"
    if first.trainer.max_steps > 0:
        every = sorted({config.trainer.max_steps for config in configs})
        steps, tokens = (
            " or ".join(f"{n:,}" for n in counts)
            for counts in (every, [n * per_step for n in every])
        )
        total = f"{steps} steps, {tokens} tokens in all"
    if first.sweep.budget is Budget.supervised:
        total = f"as many steps as {first.sweep.supervised_tokens or 0:,} supervised tokens take"
    batches = {
        c.context_length: f"{c.context_length:,}: {c.trainer.per_device_train_batch_size} x "
        f"{c.trainer.gradient_accumulation_steps} x {num_groups(c)}"
        for c in configs
    }
    return (
        f"Budget of every job: {per_step:,} tokens a step, {total}. Rows per device x accumulated "
        f"x processes at each length: {'; '.join(batches[n] for n in sorted(batches))}."
    )
