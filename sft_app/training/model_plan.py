"""Everything that is decided before weights are loaded: each run begins so, sft-plan prints it."""

import io
import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers
from rich.console import Console, Group
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from sft_app.common.counted import counted
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import PositionSkipping
from sft_app.config.schema.trainer import LossWeighting
from sft_app.data.prepare_data import PreparedData, prepare_data
from sft_app.data.preview import preview
from sft_app.data.statistics_text import describe_statistics, loss_warning
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import WeightsPlan, plan_weights
from sft_app.loader.model.generation import GenerationPlan, plan_generation
from sft_app.loader.model.tensor_parallel import check_tensor_parallel
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope, planned_config
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan
from sft_app.training.activation_memory.check_recomputation import check_recomputation
from sft_app.training.activation_memory.tiling_plan import TilingPlan, tile_tokens
from sft_app.training.arguments import uses_cuda
from sft_app.training.attention.choose_attention import AttentionPlan, choose_attention
from sft_app.training.attention.verify_skipped_positions import check_positions_can_skip
from sft_app.training.estimates.absent_hardware import HardwarePlan, plan_hardware
from sft_app.training.estimates.memory_estimate import MemoryEstimate, MemoryEstimator
from sft_app.training.loss.choose_loss import LossPlan, plan_loss
from sft_app.training.loss.chunked_cross_entropy import chunk_bytes
from sft_app.training.packing_plan import PackingPlan, plan_packing
from sft_app.training.parallel.parallel_plan import ParallelPlan, plan_parallelism
from sft_app.training.precision import Precision, plan_precision

log = logging.getLogger(__name__)

PREVIEW_COLUMNS = 100
"""Width of examples where no terminal says its own."""


@dataclass(kw_only=True)
class ModelPlans:
    """What will be loaded, and how."""

    pretrained: PretrainedConfig
    weights: WeightsPlan
    generation: GenerationPlan
    rope: RopePlan
    tokenizer: PreTrainedTokenizerBase
    tokenizer_plan: TokenizerPlan
    packing: PackingPlan
    attention: AttentionPlan
    loss: LossPlan
    precision: Precision
    memory: MemoryEstimate
    tiling: TilingPlan
    parallel: ParallelPlan

    def __str__(self) -> str:
        """Say each decision in a line."""
        decided = (
            self.weights,
            self.rope,
            self.tokenizer_plan,
            self.generation,
            *(() if self.packing.packed else (self.packing,)),
            self.attention,
            self.precision,
            self.memory,
            *((self.tiling,) if self.tiling.tile_tokens is not None else ()),
            self.parallel,
        )
        return "\n".join(line for line in map(str, decided) if line)


def plan_model(
    config: AppConfig, device: torch.device, *, kernels_for: torch.device | None = None
) -> ModelPlans:
    """Ask the loader for everything, then decide how to train; ConfigError when it cannot be.

    `kernels_for`: the kind of device whose attention and loss are planned, where it is not here.
    """
    kernels_for = kernels_for or device
    trainer = config.trainer
    pretrained = load_pretrained_config(config.model)
    weights = plan_weights(config.model, pretrained)
    generation = plan_generation(config.model, pretrained)
    tokenizer, tokenizer_plan = load_tokenizer(config.tokenizer, config.model, pretrained)
    rope = plan_rope(
        pretrained,
        config.target_length,
        config.rope,
        original_context_length=config.model.original_context_length,
        tokenizer_length=tokenizer_plan.own_max_length,
    )
    if trainer.gradient_checkpointing:
        check_recomputation(pretrained)
    if config.data.position_skipping is not PositionSkipping.none:
        check_positions_can_skip(pretrained, rope)
    planned = planned_config(pretrained, rope)
    if trainer.tensor_parallel_size > 1:
        check_tensor_parallel(planned, rope, tokenizer_plan, trainer.tensor_parallel_size)

    packing = plan_packing(config.data.packing, config.tokenizer.padding_side)
    attention = choose_attention(planned, kernels_for, config.model.attn_implementation)
    loss = plan_loss(trainer.loss_head, planned, kernels_for)
    parallel = plan_parallelism(trainer, planned, attention, config.context_length)
    precision = plan_precision(config, pretrained, weights, device)
    estimator = MemoryEstimator(
        planned,
        trainer,
        config.adapter,
        dtype=precision.parameters,
        compute_dtype=precision.compute,
        chunk_bytes=chunk_bytes(device),
        num_shards=parallel.num_shards,
        num_replicas=parallel.num_replicas,
        tile_tokens=tile_tokens(device),
    )
    return ModelPlans(
        pretrained=pretrained,
        weights=weights,
        generation=generation,
        rope=rope,
        tokenizer=tokenizer,
        tokenizer_plan=tokenizer_plan,
        packing=packing,
        attention=attention,
        loss=loss,
        precision=precision,
        memory=estimator.at(config.context_length),
        tiling=estimator.tiling(config.context_length),
        parallel=parallel,
    )


def plan_data(
    config: AppConfig, tokenizer: PreTrainedTokenizerBase, packing: PackingPlan
) -> PreparedData:
    """Read, tokenise, fit and pack; DataError when the data cannot be used."""
    prepared = prepare_data(
        packing.applied_to(config.data),
        tokenizer,
        context_length=config.context_length,
        seed=config.data.split_seed,
        chat_template_kwargs=config.tokenizer.chat_template_kwargs,
        # The jobs of a sweep are measured on the same tokens, whatever their own context.
        eval_length=config.sweep.heldout_length,
        with_shares=config.trainer.loss_weighting is LossWeighting.conversation,
    )
    if prepared.statistics.eval_in_train:
        log.warning(
            "%s in data.train as well: the model is evaluated on what it was trained on",
            counted(
                prepared.statistics.eval_in_train,
                "conversation of data.eval stands",
                "conversations of data.eval stand",
            ),
        )
    return prepared


def plan_as_dict(model: ModelPlans, data: PreparedData) -> dict[str, Any]:
    """Return what stands in plan.json."""
    return {
        "weights": model.weights.as_dict(),
        "rope": model.rope.as_dict(),
        "tokenizer": model.tokenizer_plan.as_dict(),
        "generation": asdict(model.generation),
        "data": data.statistics.as_dict(),
        "packing": asdict(model.packing),
        "attention": asdict(model.attention),
        "loss": asdict(model.loss),
        "precision": model.precision.as_dict(),
        "memory": model.memory.as_dict(),
        "tiled_mlp": asdict(model.tiling),
        **model.parallel.as_dict(),
    }


@dataclass(frozen=True, kw_only=True)
class WholePlan:
    """All that sft-plan tells: the model's part, the data's, and that of hardware elsewhere."""

    model: ModelPlans
    data: PreparedData
    hardware: HardwarePlan | None
    """None: this machine's."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `sft-plan --json` prints."""
        hardware = self.hardware.as_dict() if self.hardware else None
        return {**plan_as_dict(self.model, self.data), "hardware": hardware}

    def __str__(self) -> str:
        """Say each decision in a line, and then what the data are."""
        statistics = self.data.statistics
        parts = [str(self.model), describe_statistics(statistics)]
        if self.hardware is not None:
            parts.append(str(self.hardware))
        if (lost := loss_warning(statistics)) is not None:
            parts.append(f"{'WARNING':<16}{lost}")
        return "\n".join(parts)

    def preview(self, count: int) -> Group:
        """Return the first `count` examples, label by label, as `data.preview` asks for."""
        return preview(self.data, self.model.tokenizer, count)


def plan_everything(config: AppConfig) -> WholePlan:
    """Decide and read as a run would; nothing is loaded, and no GPU of plan.gpu is needed."""
    # What transformers says while headers are checked and lengths are counted is no finding.
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    device = torch.device("cuda" if uses_cuda(config.launch.device) else "cpu")
    named = torch.device("cuda") if config.plan.gpu is not None else device
    plans = plan_model(config, device, kernels_for=named)
    data = plan_data(config, plans.tokenizer, plans.packing)
    hardware = None
    if config.plan.gpu is not None:
        fitted = data.statistics.train
        hardware = plan_hardware(
            config,
            plans.pretrained,
            documents=data.train.document_lengths,
            num_rows=len(data.train),
            supervised_share=fitted.supervised_tokens / fitted.used_tokens,
        )
    return WholePlan(model=plans, data=data, hardware=hardware)


def print_plan(config: AppConfig, plan: WholePlan) -> None:
    """Print plans, data statistics and, with data.preview=N, the first N examples by label."""
    print(plan)
    if config.data.preview:
        Console().print(plan.preview(config.data.preview))


def plan_in_words(config: AppConfig, plan: WholePlan) -> str:
    """Return what `print_plan` prints, without colours."""
    if not config.data.preview:
        return str(plan)
    console = Console(file=io.StringIO(), width=PREVIEW_COLUMNS)
    with console.capture() as captured:
        console.print(plan.preview(config.data.preview))
    return f"{plan}\n{captured.get().rstrip()}"
