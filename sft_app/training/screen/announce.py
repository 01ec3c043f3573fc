"""What is about to be trained: how many steps, of what, and for about how long."""

import logging
import math
import os
from datetime import timedelta

from transformers import TrainingArguments

from sft_app.common.counted import counted
from sft_app.config.schema.app import AppConfig
from sft_app.data.prepare_data import PreparedData
from sft_app.data.statistics_text import loss_warning
from sft_app.records.run_files import JOB_LABEL
from sft_app.training.estimates.time_estimate import estimate_time
from sft_app.training.model_plan import ModelPlans
from sft_app.training.optim.lr_schedule import learning_rate_sum
from sft_app.training.screen.log_setup import JOB_LINE
from sft_app.training.screen.screen_lines import data_lines, plan_lines, size, warnings_of
from sft_app.training.sft_trainer import SFTTrainer

log = logging.getLogger(__name__)

FEW_STEPS = 10
ONE_STEP_AT_THE_PEAK = 0.999


def say_plans(config: AppConfig, plans: ModelPlans, data: PreparedData) -> None:
    """Say what was decided and read; the plans' warnings as such."""
    for line in [*data_lines(config, data.statistics), *plan_lines(plans)]:
        log.info("%s", line)
    lost = loss_warning(data.statistics)
    for warning in [*([lost] if lost else []), *warnings_of(plans)]:
        log.warning("%s", warning)


def announce(trainer: SFTTrainer, data: PreparedData, memory_bytes: int) -> None:
    """Say how many steps there are, of what, and about how long they take.

    A job of a sweep says it in one line, with `memory_bytes`, what a process is estimated to need.
    """
    args, data_parallel_size = trainer.args, trainer.data_parallel.size
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = num_steps(args, data, data_parallel_size)
    estimate = estimate_time(
        trainer.prepared.shape,
        matmul_rate=trainer.count.measured_rate,
        documents=data.train.document_lengths,
        supervised_share=data.statistics.train.supervised_tokens
        / data.statistics.train.used_tokens,
        passes=steps * rows * data_parallel_size / args.world_size / len(data.train),
    )
    trainer.count.measured_rate = estimate.matmul_rate
    for warning in little_training(args, steps, rows * data_parallel_size):
        log.warning("%s", warning)
    log.info(
        "training        %s of %s (%d per device x %d accumulated x %s), %s",
        counted(steps, "step"),
        counted(rows * data_parallel_size, "row"),
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        trainer.data_parallel,
        estimate,
    )
    logging.getLogger(JOB_LINE).info(
        "%s  %s, about %s, %s",
        os.environ.get(JOB_LABEL, "this job"),
        counted(steps, "step"),
        timedelta(seconds=max(1, round(estimate.seconds))),
        size(memory_bytes),
    )


def little_training(args: TrainingArguments, steps: int, rows_per_step: int) -> list[str]:
    """Return a sentence, with the overrides that give more, where a run can hardly learn anything.

    Args:
        steps: optimizer steps of the whole run.
        rows_per_step: rows of all ranks and accumulated passes in each of them.
    """
    warnings = []
    total = learning_rate_sum(args, steps)
    if args.learning_rate == 0 or (total is not None and total < ONE_STEP_AT_THE_PEAK):
        warnings.append(
            f"the learning rates of all {counted(steps, 'step')} together are less than one step "
            f"at trainer.learning_rate={args.learning_rate:g}: the model will hardly change. "
            "Shorten trainer.warmup_steps, or raise trainer.learning_rate or trainer.max_steps."
        )
    if steps < FEW_STEPS:
        remedy = f"trainer.num_train_epochs={math.ceil(args.num_train_epochs * FEW_STEPS / steps)}"
        if args.max_steps > 0:
            remedy = f"trainer.max_steps={10 * FEW_STEPS}"
        if rows_per_step > 1:
            remedy += ", or fewer rows a step: trainer.gradient_accumulation_steps=1"
            if args.per_device_train_batch_size > 1:
                remedy += " trainer.per_device_train_batch_size=1"
        count = counted(steps, "optimizer step")
        warnings.append(f"only {count}: hardly anything is learned in so few. More: {remedy}.")
    return warnings


def num_steps(args: TrainingArguments, data: PreparedData, data_parallel_size: int) -> int:
    """Return the optimizer steps of the whole run, as the Trainer counts them."""
    if args.max_steps > 0:
        return args.max_steps
    rows = args.per_device_train_batch_size * data_parallel_size
    batches = math.ceil(len(data.train) / rows)
    per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return math.ceil(per_epoch * args.num_train_epochs)
