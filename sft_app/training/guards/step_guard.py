"""The guard in the step: between backward and the optimizer, one place looks at what came out.

A loss or a gradient that is no number would make every weight NaN with the next update. It is seen
here, on all ranks at once and before anything is updated or saved. The same look tells whether a
signal has asked any rank to end, so that no two ranks can disagree about it, and the device is
waited for once.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from sft_app.common import ranks
from sft_app.config.schema.trainer import OnNonfinite
from sft_app.training.guards.stop_signals import StopSignals

log = logging.getLogger(__name__)

KEY = "StepGuard"
"""Where a checkpoint's trainer_state.json keeps the count, among what callbacks keep there."""
MOST_IN_A_ROW = 10
"""Steps that on_nonfinite=skip leaves out one after the other before the run is stopped."""


class TrainingDiverged(ValueError):
    """Says that a loss, a gradient or a weight is no number: what follows would be NaN."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What all ranks together have seen of one step."""

    finite_loss: bool
    finite_gradient: bool
    loss: float
    """Of the step: the mean over all ranks of the sum over micro-batches, as it is logged."""
    stop_signal: int
    """The signal that asked one of them to end; 0: none."""

    @property
    def is_finite(self) -> bool:
        """Tell whether the optimizer may take the step."""
        return self.finite_loss and self.finite_gradient


class StepGuard:
    """Looks at each step of one training run, and counts those that were left out."""

    def __init__(self, on_nonfinite: OnNonfinite, signals: StopSignals) -> None:
        """Stop or skip at the first step that is not finite; `signals` is asked at every step."""
        self.on_nonfinite = on_nonfinite
        self.signals = signals
        self.skipped_steps = 0
        self._in_a_row = 0

    def look(self, losses: list[Tensor], norm: Tensor | None) -> Look:
        """Look at one step's losses (of this rank) and gradient norm; a collective.

        `norm` is None where a gradient scaler looks after overflowing gradients by itself.
        """
        total = torch.stack([loss.float().reshape(()) for loss in losses]).sum()
        gradient = total.new_zeros(()) if norm is None else norm.to(total.device).float()
        seen = torch.stack(
            [
                ~torch.isfinite(total),
                ~torch.isfinite(gradient),
                torch.tensor(self.signals.received, device=total.device),
            ]
        ).float()
        loss = total / ranks.world_size()
        if ranks.is_distributed():
            dist.all_reduce(seen, op=dist.ReduceOp.MAX)
            dist.all_reduce(loss)
        bad_loss, bad_gradient, signal, mean = torch.cat([seen, loss.reshape(1)]).tolist()
        return Look(
            finite_loss=not bad_loss,
            finite_gradient=not bad_gradient,
            loss=mean,
            stop_signal=int(signal),
        )

    def may_skip(self) -> bool:
        """Count a step that is not finite; False where the run has to stop."""
        if self.on_nonfinite is OnNonfinite.stop:
            return False
        self.skipped_steps += 1
        self._in_a_row += 1
        return self._in_a_row <= MOST_IN_A_ROW

    def passed(self) -> None:
        """Note a step that is finite."""
        self._in_a_row = 0

    def as_dict(self) -> dict[str, int]:
        """Return what a checkpoint keeps."""
        return {"skipped_steps": self.skipped_steps, "in_a_row": self._in_a_row}

    def restore(self, kept: dict[str, int]) -> None:
        """Count on from what a checkpoint has kept; one without it keeps nothing."""
        self.skipped_steps = kept.get("skipped_steps", 0)
        self._in_a_row = kept.get("in_a_row", 0)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the 2-norm of all gradients of all ranks, a scalar; nothing is scaled.

    Gradients on several device meshes, as of a sharded model with whole adapters, have one norm
    each, which are put together.
    """
    norms = [
        _whole(get_total_norm([p.grad for p in group if p.grad is not None]))
        for group in by_mesh(parameters)
    ]
    if not norms:
        return torch.zeros(())
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def clip_gradients(parameters: Iterable[nn.Parameter], most: float, norm: Tensor) -> None:
    """Scale gradients of this norm down to `most`, where they are larger."""
    for group in by_mesh(parameters):
        clip_grads_with_norm_(group, most, norm)


def by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Sort the parameters that have a gradient by the device mesh that their gradients lie on."""
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = parameter.grad
            mesh = gradient.device_mesh if isinstance(gradient, DTensor) else None
            groups.setdefault(mesh, []).append(parameter)
    return list(groups.values())


def nonfinite_tensors(named: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """List the names of the tensors with a NaN or an infinity; of shards, this rank's are seen."""
    return [name for name, tensor in named if tensor is not None and not _is_finite(tensor)]


def check_weights(model: nn.Module, when: str) -> None:
    """Raise TrainingDiverged on every rank when a weight of any is not finite; a collective."""
    device = next(model.parameters()).device
    bad = torch.zeros((), dtype=torch.int, device=device)
    for parameter in model.parameters():
        local = _local(parameter)
        if local.is_floating_point() and local.device == device:
            bad |= ~torch.isfinite(local).all()
    if ranks.is_distributed():
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    if bad:
        names = nonfinite_tensors(model.named_parameters())
        which = f" ({len(names)} tensors, the first is {names[0]})" if names else ""
        raise TrainingDiverged(
            f"weights are no numbers any more {when}{which}: they are not saved. Lower "
            "trainer.learning_rate or lengthen trainer.warmup_steps; the newest checkpoint is from "
            "before."
        )


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(_local(tensor.detach())).all())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
