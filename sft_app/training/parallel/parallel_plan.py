"""How the processes of a run share the work, decided before weights are loaded."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PretrainedConfig

from sft_app.common import ranks
from sft_app.config.schema.trainer import Parallelism, TrainerConfig
from sft_app.config.validation.check_parallel import check_fsdp_replicas
from sft_app.training.attention.choose_attention import AttentionPlan
from sft_app.training.parallel.verify_context_parallel import check_context_parallel


@dataclass(frozen=True)
class ParallelPlan:
    """Sizes of the groups of processes that share rows, matrices and training state."""

    context_parallel_size: int
    """Processes that hold a sequence shard each of the same rows."""
    tensor_parallel_size: int
    """Processes that hold a shard each of the same matrices."""
    num_replicas: int
    """Processes that hold all weights each and reduce whole gradients (DDP)."""
    num_shards: int
    """Processes that share weights, gradients and optimizer state; of FSDP, sft-plan has one."""
    context_length: int
    """Tokens of a row."""

    @property
    def tokens_per_row(self) -> int:
        """Return the tokens of a row, or of its sequence shard, that one process holds."""
        return math.ceil(self.context_length / self.context_parallel_size)

    def as_dict(self) -> dict[str, Any]:
        """Return what stands in plan.json."""
        values = asdict(self)
        del values["context_length"]  # the rope plan's
        return values

    def __str__(self) -> str:
        """Say what is shared, a line each; nothing where nothing is."""
        lines = []
        if self.context_parallel_size > 1:
            shards = (
                f"{self.context_parallel_size} sequence shards of {self.tokens_per_row:,} tokens"
            )
            lines.append(f"context         each row in {shards}")
        if self.tensor_parallel_size > 1:
            shards = f"{self.tensor_parallel_size} tensor-parallel shards"
            lines.append(f"tensors         {shards}, by transformers' plan of the family")
        return "\n".join(lines)


def plan_parallelism(
    trainer: TrainerConfig,
    planned: PretrainedConfig,
    attention: AttentionPlan,
    context_length: int,
) -> ParallelPlan:
    """Check that the model can be shared as asked; raise ConfigError where it cannot."""
    if trainer.context_parallel_size > 1:
        check_context_parallel(planned, attention, trainer.context_parallel_size)
    num_replicas, num_shards = 1, trainer.tensor_parallel_size
    if trainer.parallelism is Parallelism.fsdp:
        check_fsdp_replicas(trainer.fsdp_replicas, ranks.world_size())
        num_shards = max(1, ranks.world_size() // trainer.fsdp_replicas)
    elif num_shards == 1:
        num_replicas = ranks.world_size()
    return ParallelPlan(
        context_parallel_size=trainer.context_parallel_size,
        tensor_parallel_size=trainer.tensor_parallel_size,
        num_replicas=num_replicas,
        num_shards=num_shards,
        context_length=context_length,
    )
