"""Verify, on the loaded model, that matrices cut for several ranks are those of one process.

transformers cuts a family by a plan that is written by hand, and does not compare what comes out.
What stays whole on every rank gets a gradient from each: where it stands behind a cut, every rank
knows a part of that gradient only, and nobody adds them up unless the plan says so. And tensors
that are taken apart while they are read may be cut before, so that ranks have other rows.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.data.labels import count_supervised
from sft_app.training.parallel.distribute_weights import broadcast_weights, move_to_meta
from sft_app.training.precision import compute_dtype
from sft_app.training.tiny_batch import tiny_batch

TOLERATED = 1e-3
TOLERATED_IN_16_BITS = 0.1
"""Relative differences that rounding alone may make."""
LEAST = 1e-6
"""Of the norm of all gradients: what is smaller is rounding itself."""


@dataclass(frozen=True)
class TensorParallelCheck:
    """What ranks have computed of a tiny batch, each for itself."""

    whole: int
    """Parameters that every rank has whole, and that are trained."""
    difference: float
    """Largest relative difference between ranks: of the logits, or of a gradient of those."""

    def sentence(self) -> str:
        """Say by how much."""
        return (
            f"ranks agree on the logits and on the gradients of {self.whole:,} parameters that "
            f"each has whole within {self.difference:.0e}"
        )


def verify_tensor_parallel(
    model: PreTrainedModel, called: nn.Module | None = None
) -> TensorParallelCheck:
    """Compare the ranks after a forward and a backward of a tiny batch; a collective.

    `called` is what training calls, where that wraps the model. Raises ConfigError, on all ranks,
    where they differ. Gradients are none afterwards.
    """
    called = called or model
    was_training = called.training
    called.eval()  # dropout would drown the answer
    try:
        batch = tiny_batch(model)
        with torch.no_grad():
            logits = called(input_ids=batch["input_ids"]).logits
        called(**batch, num_items_in_batch=count_supervised(batch["labels"])).loss.backward()
        check, culprit = _compare(called, logits)
    finally:
        called.zero_grad(set_to_none=True)
        called.train(was_training)
    in_float32 = compute_dtype(model) == torch.float32
    if not check.difference <= (TOLERATED if in_float32 else TOLERATED_IN_16_BITS):
        raise _refusal(model, f"ranks differ in {culprit} by {check.difference:.0e} of it")
    return check


def verify_cut_weights(
    model: PreTrainedModel, whole: PreTrainedModel, device: torch.device
) -> None:
    """Compare weights that were cut while they were read with `whole` ones; a collective.

    Rank 0 has the latter in its host's memory; they are spent. Raises ConfigError on all ranks.
    """
    own = dict(model.named_parameters())
    culprit = None
    for name, expected in broadcast_weights(whole, move_to_meta(whole), device):
        found = own[name].detach()
        found = found.full_tensor() if isinstance(found, DTensor) else found
        if culprit is None and not torch.equal(found.to(expected.dtype), expected):
            culprit = name
    told: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, culprit)
    culprit = next((name for name in told if name is not None), None)
    if culprit is not None:
        raise _refusal(model, f"transformers reads {culprit} otherwise when it cuts it")


def _compare(called: nn.Module, logits: Tensor) -> tuple[TensorParallelCheck, str]:
    """Return how far ranks are from rank 0 at most, and in what."""
    logits = logits.full_tensor() if isinstance(logits, DTensor) else logits
    compared = {"the logits": logits.float()}
    total = torch.zeros((), device=logits.device)
    for name, parameter in called.named_parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            total += gradient.to_local().float().square().sum()
        elif parameter.requires_grad and not isinstance(parameter, DTensor):
            mine = torch.zeros_like(parameter) if gradient is None else gradient
            compared[f"the gradient of {name}"] = mine.float()
    dist.all_reduce(total)
    least = LEAST * total.sqrt()
    differences = torch.stack([_from_rank_0(tensor, least) for tensor in compared.values()])
    dist.all_reduce(differences, op=dist.ReduceOp.MAX)
    worst = int(differences.argmax())
    check = TensorParallelCheck(len(compared) - 1, differences[worst].item())
    return check, list(compared)[worst]


def _from_rank_0(tensor: Tensor, least: Tensor) -> Tensor:
    """Return the relative difference from rank 0's, a scalar; infinity for NaN."""
    expected = tensor.clone()
    dist.broadcast(expected, src=0)
    difference = (tensor - expected).norm() / torch.maximum(expected.norm(), least)
    return torch.where(difference.isfinite(), difference, torch.inf)


def _refusal(model: PreTrainedModel, finding: str) -> ConfigError:
    size = dist.get_world_size()
    return ConfigError(
        f"trainer.tensor_parallel_size={size}: this {model.config.model_type} model is another one "
        f"when transformers cuts its matrices ({finding}); use trainer.tensor_parallel_size=1, or "
        "trainer.parallelism=fsdp, which shards the weights of every model."
    )
