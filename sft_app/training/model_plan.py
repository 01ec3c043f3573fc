"""Everything that is decided before weights are loaded: each run begins so, sft-plan prints it."""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from sft_app.common import ranks
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.trainer import Parallelism, TrainerConfig
from sft_app.data.prepare_data import PreparedData, prepare_data
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import WeightsPlan, plan_weights
from sft_app.loader.model.tensor_parallel import check_tensor_parallel
from sft_app.loader.rope.rope_plan import RopePlan, apply_rope_plan, plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan
from sft_app.training.attention.choose_attention import AttentionChoice
from sft_app.training.estimates.memory_estimate import MemoryEstimate, estimate_memory
from sft_app.training.loss.choose_loss import LossPlan, plan_loss
from sft_app.training.loss.chunked_cross_entropy import chunk_bytes
from sft_app.training.parallel.verify_context_parallel import check_context_parallel
from sft_app.training.precision import Precision, plan_precision
from sft_app.training.prepare_model import plan_attention


@dataclass(kw_only=True)
class ModelPlans:
    """What will be loaded, and how."""

    pretrained: PretrainedConfig
    weights: WeightsPlan
    rope: RopePlan
    tokenizer: PreTrainedTokenizerBase
    tokenizer_plan: TokenizerPlan
    attention: AttentionChoice
    loss: LossPlan
    precision: Precision
    memory: MemoryEstimate
    context_parallel_size: int
    """Of each row; every part is on a process of its own."""
    tensor_parallel_size: int
    """Parts of each matrix, likewise."""

    def __str__(self) -> str:
        decided = (
            self.weights,
            self.rope,
            self.tokenizer_plan,
            self.attention,
            self.precision,
            self.memory,
        )
        lines = [str(decision) for decision in decided]
        if self.context_parallel_size > 1:
            tokens = math.ceil(self.rope.context_length / self.context_parallel_size)
            lines.append(
                f"context         rows in {self.context_parallel_size} parts of {tokens:,} tokens"
            )
        if self.tensor_parallel_size > 1:
            lines.append(
                f"tensors         each matrix in {self.tensor_parallel_size} parts, by transformers"
            )
        return "\n".join(lines)


def plan_model(config: AppConfig, device: torch.device) -> ModelPlans:
    """Read the model's configuration and tokenizer, and decide; ConfigError when it cannot be."""
    pretrained = load_pretrained_config(config.model)
    weights = plan_weights(config.model, pretrained)
    rope = plan_rope(
        pretrained,
        config.context_length,
        config.rope,
        original_context_length=config.model.original_context_length,
    )
    tokenizer, tokenizer_plan = load_tokenizer(config.tokenizer, config.model, pretrained)
    attention = plan_attention(config, pretrained, device)
    loss = plan_loss(config.trainer.loss_head, pretrained, device)
    planned = copy.deepcopy(pretrained)
    apply_rope_plan(planned, rope)
    if config.trainer.context_parallel_size > 1:
        check_context_parallel(planned, attention, config.trainer.context_parallel_size)
    if config.trainer.tensor_parallel_size > 1:
        check_tensor_parallel(planned, rope, tokenizer_plan, config.trainer.tensor_parallel_size)
    precision = plan_precision(config, pretrained, weights, device)
    memory = estimate_memory(
        planned,
        config.trainer,
        config.adapter,
        context_length=config.context_length,
        dtype=precision.parameters,
        compute_dtype=precision.compute,
        chunk_bytes=chunk_bytes(device),
        num_shards=num_shards(config.trainer),
    )
    return ModelPlans(
        pretrained=pretrained,
        weights=weights,
        rope=rope,
        tokenizer=tokenizer,
        tokenizer_plan=tokenizer_plan,
        attention=attention,
        loss=loss,
        precision=precision,
        memory=memory,
        context_parallel_size=config.trainer.context_parallel_size,
        tensor_parallel_size=config.trainer.tensor_parallel_size,
    )


def num_shards(trainer: TrainerConfig) -> int:
    """Processes that share weights, gradients and optimizer state; of FSDP, sft-plan has one."""
    if trainer.parallelism is Parallelism.fsdp and ranks.has_group():
        return ranks.world_size()
    return trainer.tensor_parallel_size


def plan_data(config: AppConfig, tokenizer: PreTrainedTokenizerBase) -> PreparedData:
    """Read, tokenise, fit and pack; DataError when the data cannot be used."""
    return prepare_data(
        config.data,
        tokenizer,
        context_length=config.context_length,
        seed=config.data.split_seed,
    )


def plan_as_dict(model: ModelPlans, data: PreparedData) -> dict[str, Any]:
    """What stands in plan.json."""
    return {
        "weights": model.weights.as_dict(),
        "rope": model.rope.as_dict(),
        "tokenizer": model.tokenizer_plan.as_dict(),
        "data": data.statistics.as_dict(),
        "attention": asdict(model.attention),
        "loss": asdict(model.loss),
        "precision": model.precision.as_dict(),
        "memory": model.memory.as_dict(),
        "context_parallel_size": model.context_parallel_size,
        "tensor_parallel_size": model.tensor_parallel_size,
    }
