"""transformers.Trainer, with checkpoints that are whole or absent, also of sharded models."""

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME

from sft_app.common.counted import counted
from sft_app.common.errors import ConfigError
from sft_app.records.disk_space import check_space, explain_full_disk
from sft_app.records.manifest import write_manifest
from sft_app.records.run_files import IDENTITY
from sft_app.training.guards.step_guard import check_weights
from sft_app.training.optim.resumed_schedule import GivenSettings, fit_learning_rate
from sft_app.training.optim.saved_state import read_state
from sft_app.training.optim.state_dtypes import keep_dtypes
from sft_app.training.optim.summing_trainer import SummingTrainer
from sft_app.training.parallel.fsdp import load_shards, save_shards
from sft_app.training.peft.lora import plain_model
from sft_app.training.saving.checkpoints import STAGING, publish, rotate
from sft_app.training.saving.load_weights import load_weights

log = logging.getLogger(__name__)


class LogWhatCounts(TrainerCallback):
    """Logs each step that is or may be saved, to count on from in a resumed run, and the last."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log where a checkpoint follows, or nothing."""
        may_be_saved = control.should_save or control.should_evaluate
        control.should_log |= may_be_saved or control.should_training_stop

    on_epoch_end = on_step_end


class CheckpointingTrainer(SummingTrainer):
    """Writes each checkpoint aside, and gives it its name when every rank has finished."""

    optimizer: Any
    lr_scheduler: Any
    _saving_in: Path | None = None
    _resumed_at: int = -1
    """The step whose checkpoint training goes on from."""
    _planned_steps: int = 0
    """Optimizer steps that the learning-rate schedule was made for."""

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Log, measure and save as often as this run is to, and not as the checkpoint's was."""
        self.state.compute_steps(self.args, self.state.max_steps)
        return super()._prepare_for_training(*args, **kwargs)

    @property
    def _lora(self) -> bool:
        return self.model is not plain_model(self.model)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_in) if self._saving_in else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, and give it its name when every rank has finished."""
        step = self.state.global_step
        checkpoints = Path(self.args.output_dir)
        if step == self._resumed_at:  # it is there
            return
        check_weights(self.model, f"after step {step}")
        needed = self._checkpoint_bytes()
        staging = checkpoints / STAGING
        what = f"the checkpoint of step {step}"
        if self.is_world_process_zero():
            shutil.rmtree(staging, ignore_errors=True)
            check_space(checkpoints, needed, what)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        try:
            with told_when_slow(what, checkpoints):
                self._saving_in = staging
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.is_world_process_zero():
                    self._finish(staging / f"checkpoint-{step}", checkpoints)
        except Exception as error:
            explain_full_disk(error, checkpoints, needed, what)
            raise
        finally:
            self._saving_in = None
            if self.is_world_process_zero():
                shutil.rmtree(staging, ignore_errors=True)  # also what filled the disk
        self.accelerator.wait_for_everyone()

    def _finish(self, staged: Path, checkpoints: Path) -> None:
        """Seal a checkpoint that all ranks have written, and give it its name."""
        (staged / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing needs
        identity = checkpoints.parent / IDENTITY
        if identity.is_file():
            shutil.copy(identity, staged)
        write_manifest(staged, step=self.state.global_step, all_finite=True)
        publish(staged, checkpoints)
        rotate(checkpoints, self.args.save_total_limit, self._kept_from_rotation())

    def _kept_from_rotation(self) -> int | None:
        """Return the step whose checkpoint stays, however old it is."""
        return None

    def _checkpoint_bytes(self) -> int:
        """Return about how much a checkpoint takes: weights, and the optimizer's state."""
        weights = {id(p): p for p in self.model.parameters() if p.requires_grad or not self._lora}
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        states = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        local = sum(_local_bytes(tensor) for tensor in [*weights.values(), *states])
        if not self.prepared.sharded:
            return local
        copies = max(_copies(weight) for weight in weights.values())
        return local * self.args.world_size // copies

    # -- sharded models ------------------------------------------------------------------------

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Every micro-batch is reduced: what waits for the last one would be whole gradients."""
        return nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights; those of sharded models are written with the optimizer's state."""
        if not self.prepared.sharded:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.prepared.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self.model, self.optimizer, Path(output_dir))
        if self.is_world_process_zero():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        if self.prepared.sharded:
            return  # with the optimizer's state, below
        if self._lora:
            with told_as_another_run("adapter", resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        given = GivenSettings.of(self.optimizer, self.lr_scheduler)
        if self.prepared.sharded:
            load_shards(self.model, self.optimizer, folder)
        else:
            # One process spares its device; the hosts of many would hold the state many times. The
            # Trainer's own way fails on several ranks of CPUs with transformers before 5.23.
            on_host = self.args.world_size == 1 or self.args.device.type == "cpu"
            device = torch.device("cpu") if on_host else self.args.device
            state = read_state(folder / OPTIMIZER_NAME, device)
            with told_as_another_run("optimizer", folder):
                self.optimizer.load_state_dict(state)
            keep_dtypes(getattr(self.optimizer, "optimizer", self.optimizer), state)
        schedule = torch.load(folder / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)
        others = given.put_back(self.optimizer, self.lr_scheduler)
        if others:
            log.info("resume          the optimizer goes on with %s", ", ".join(others))
        changed = fit_learning_rate(self.lr_scheduler, folder, self._planned_steps)
        if changed is not None:
            log.info("resume          %s", changed)


@contextmanager
def told_as_another_run(what: str, checkpoint: str | Path) -> Iterator[None]:
    """Say what PyTorch and PEFT find when a state is that of other parameters, in one sentence.

    Raises ConfigError.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"trainer.resume_from_checkpoint: the {what} of {checkpoint} is not the one that is "
            f"trained now ({' '.join(str(error).split())[:200]}): it was saved with other settings "
            "(adapter, optimizer) or by an older version; go on with those, or set "
            "trainer.resume_from_checkpoint=never in another folder."
        ) from error


SECONDS_OF_A_MINUTE = 60.0


@contextmanager
def told_when_slow(what: str, where: Path) -> Iterator[None]:
    """Log a line every minute that storage keeps a save waiting."""
    ended = threading.Event()

    def tell() -> None:
        minutes = 0
        while not ended.wait(SECONDS_OF_A_MINUTE):
            minutes += 1
            log.warning("%s has been written to %s for %s", what, where, counted(minutes, "minute"))

    thread = threading.Thread(target=tell, name="slow save", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _copies(tensor: torch.Tensor) -> int:
    """Return how many ranks hold the same shard (HSDP)."""
    if not isinstance(tensor, DTensor) or tensor.device_mesh.ndim == 1:
        return 1
    return tensor.device_mesh.size(0)


def _local_bytes(tensor: torch.Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()
