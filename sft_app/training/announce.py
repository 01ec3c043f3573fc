"""What is about to be trained: how many steps, of what, and for about how long."""

import logging
import math

from transformers import TrainingArguments

from sft_app.data.prepare_data import PreparedData
from sft_app.training.estimates.time_estimate import estimate_time
from sft_app.training.sft_trainer import SFTTrainer

log = logging.getLogger(__name__)


def announce(trainer: SFTTrainer, data: PreparedData) -> None:
    """Say how many steps there are, of what, and about how long they take."""
    args, groups = trainer.args, trainer.share.count
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = num_steps(args, data, groups)
    estimate = estimate_time(
        trainer.prepared.shape,
        matmul_rate=trainer.count.measured_rate,
        row_lengths=data.train.lengths,
        supervised_share=data.statistics.train.supervised_tokens
        / data.statistics.train.used_tokens,
        num_rows=steps * rows * groups / args.world_size,
    )
    trainer.count.measured_rate = estimate.matmul_rate
    log.info(
        "training        %d steps of %d rows (%d per device x %d accumulated x %s), %s",
        steps,
        rows * groups,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        trainer.share,
        estimate,
    )


def num_steps(args: TrainingArguments, data: PreparedData, groups: int) -> int:
    """Optimizer steps of the whole run, as the Trainer counts them.

    `groups`: processes, or groups of processes, that read rows of their own.
    """
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(len(data.train) / (args.per_device_train_batch_size * groups))
    per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return math.ceil(per_epoch * args.num_train_epochs)
