"""trainer.auto_find_batch_size: after memory ran out, the same step in smaller pieces."""

import dataclasses
from pathlib import Path

from sft_app.config.schema.app import AppConfig
from sft_app.records.result import Status, read_result
from sft_app.records.run_files import CHECKPOINTS


def with_smaller_batch(config: AppConfig, run_dir: Path) -> AppConfig | None:
    """Return what to go on with, or None: memory did not run out, or the batch is one row.

    The whole job starts again, not the rank that ran out: its peers wait for it in a collective.
    An optimizer step keeps its rows, so that the newest checkpoint fits, and the data its order.
    """
    trainer = config.trainer
    rows = trainer.per_device_train_batch_size
    if not trainer.auto_find_batch_size or rows == 1 or not _ran_out_of_memory(run_dir):
        return None
    parts = next(number for number in range(2, rows + 1) if rows % number == 0)
    has_checkpoints = any((run_dir / CHECKPOINTS).glob("checkpoint-*"))
    resume = trainer.resume_from_checkpoint
    changed = dataclasses.replace(
        trainer,
        per_device_train_batch_size=rows // parts,
        gradient_accumulation_steps=trainer.gradient_accumulation_steps * parts,
        # Those that stand here are this start's own, whatever it was told to begin with.
        resume_from_checkpoint="auto" if has_checkpoints else resume,
    )
    return dataclasses.replace(config, trainer=changed)


def _ran_out_of_memory(run_dir: Path) -> bool:
    try:
        return read_result(run_dir).status is Status.out_of_memory
    except ValueError:
        return False
