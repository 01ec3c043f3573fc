"""Whether there is room for what a run will write, asked before its weights are loaded."""

import logging
from pathlib import Path

from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.trainer import SaveStrategy
from sft_app.records.disk_space import check_space, free_bytes
from sft_app.records.run_files import CHECKPOINTS
from sft_app.training.model_plan import ModelPlans

log = logging.getLogger(__name__)


def check_room(config: AppConfig, plans: ModelPlans, run_dir: Path) -> None:
    """Raise DiskFull where the final model and one checkpoint do not fit, by the estimate.

    Where fewer checkpoints fit than are kept, and the one that is written before the oldest goes, a
    warning says so: a short run may write fewer. A run that goes on has its checkpoints already.
    """
    model, checkpoint = bytes_to_write(plans)
    if any((run_dir / CHECKPOINTS).glob("checkpoint-*")):
        return
    saves = config.trainer.save_strategy is not SaveStrategy.no
    what = "the final model, and a checkpoint before it," if saves else "the final model"
    check_space(run_dir, model + (checkpoint if saves else 0), what)
    kept = config.trainer.save_total_limit
    if saves and kept is not None and free_bytes(run_dir) < model + (kept + 1) * checkpoint:
        log.warning(
            "There may be too little room in %s: %.1f GiB are free, and the model with %d "
            "checkpoints takes about %.1f GiB. Keep fewer (trainer.save_total_limit=1), or run on "
            "another disk (hydra.run.dir=/other/disk/...).",
            run_dir,
            free_bytes(run_dir) / 2**30,
            kept + 1,
            (model + (kept + 1) * checkpoint) / 2**30,
        )


def bytes_to_write(plans: ModelPlans) -> tuple[int, int]:
    """Return what the final model and one checkpoint take: trained weights and optimizer state."""
    memory, precision = plans.memory, plans.precision
    optimizer = memory.optimizer * plans.parallel.num_shards
    trained = memory.num_trainable_parameters * precision.parameters.itemsize
    return memory.num_parameters * precision.saved.itemsize, trained + optimizer
