"""Who reads the weights of a model that will be sharded: each rank its own rows, or rank 0 all."""

from dataclasses import dataclass

import torch.distributed as dist

from sft_app.common import ranks
from sft_app.common.counted import counted
from sft_app.loader.checkpoint.stored_weights import StoredWeights
from sft_app.loader.checkpoint.weights_plan import WeightsPlan
from sft_app.loader.rope.rope_plan import RopePlan


@dataclass(frozen=True)
class LoadingPlan:
    """The way that all ranks have agreed on."""

    stored: StoredWeights | None
    """Where each rank reads its own rows; None: rank 0 reads all, and scatters."""
    reason: str

    def __str__(self) -> str:
        """Say it in a line of the log."""
        if self.stored is not None:
            return f"loading         each rank reads its own rows of the weights ({self.reason})"
        return (
            "loading         rank 0 reads the weights into its host's memory, which holds them "
            f"whole, and scatters them: {self.reason}"
        )


def plan_loading(weights: WeightsPlan, rope: RopePlan) -> LoadingPlan:
    """Let all ranks agree: a collective, after the plans and before the loading."""
    found = weights.stored
    if isinstance(found, StoredWeights) and rope.method == "extend_positions":
        found = "its table of positions is extended"
    mine: tuple[str | None, str]
    mine = (found, "") if isinstance(found, str) else (None, found.fingerprint())
    told = [mine] * ranks.world_size()
    if ranks.is_distributed():
        dist.all_gather_object(told, mine)
    obstacle = next((reason for reason, _ in told if reason is not None), None)
    if obstacle is None and len({fingerprint for _, fingerprint in told}) > 1:
        obstacle = "the copies of it on the nodes are not the same"
    if obstacle is not None or isinstance(found, str):
        return LoadingPlan(None, str(obstacle))
    files = counted(len({header.file for header in found.headers.values()}), "file")
    tensors = counted(len(found.headers), "tensor")
    if not found.stacks:
        return LoadingPlan(found, f"{tensors} in {files}, as the model has them")
    parts = len(found.headers) - len(found.names)
    stacked = f"{parts:,} of them stacked to {len(found.stacks):,}"
    return LoadingPlan(found, f"{tensors} in {files}, {stacked}")
