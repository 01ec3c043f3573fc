"""What is done to a loaded model before it trains: its attention, its loss, its adapter."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.compat import model_internals
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import PositionSkipping
from sft_app.config.schema.sweep import Budget
from sft_app.training.activation_memory.tile_layers import tile_layers
from sft_app.training.activation_memory.tiling_plan import WHOLE_ROWS, TilingPlan
from sft_app.training.attention.choose_attention import (
    AttentionChoice,
    AttentionPlan,
    DocumentsLeak,
    use_attention,
    verify_attention,
)
from sft_app.training.attention.padded_attention import verify_padded
from sft_app.training.attention.verify_skipped_positions import verify_skipped_positions
from sft_app.training.loss.choose_loss import LossPlan
from sft_app.training.loss.patched_forward import CHUNKED, LossChoice, install_chunked_loss
from sft_app.training.metrics.flops import ModelShape, shape_of
from sft_app.training.packing_plan import PackingPlan
from sft_app.training.parallel.context_parallel import ContextParallelGroup
from sft_app.training.parallel.fsdp import shard, wants_shards
from sft_app.training.parallel.verify_context_parallel import verify_context_parallel
from sft_app.training.parallel.verify_tensor_parallel import verify_tensor_parallel
from sft_app.training.peft.lora import add_adapter
from sft_app.training.peft.quantize import quantise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedModel:
    """The model as it will be trained, and what was decided about it."""

    model: nn.Module
    """What is trained: the loaded model, or PEFT's wrapper of it."""
    packing: PackingPlan
    attention: AttentionChoice
    loss: LossChoice
    shape: ModelShape
    sharded: bool = False
    """Whether each rank holds a shard of it only (FSDP, tensor parallel)."""
    context: ContextParallelGroup | None = None
    """The ranks that share each row with this one; None: it has whole rows."""
    tensor_parallel_size: int = 1
    """Ranks that hold shards of each matrix."""

    @property
    def model_parallel_size(self) -> int:
        """Return the number of consecutive ranks that read the same batches."""
        return self.context.size if self.context else self.tensor_parallel_size


def reads_on_host(config: AppConfig) -> bool:
    """Tell whether `prepare_model` distributes what rank 0 has read into its host's memory."""
    return wants_shards(config.trainer) or config.adapter.method is AdapterMethod.qlora


def prepare_model(
    model: PreTrainedModel,
    config: AppConfig,
    device: torch.device,
    *,
    packing: PackingPlan,
    attention: AttentionPlan,
    loss_plan: LossPlan = CHUNKED,
    tiling: TilingPlan = WHOLE_ROWS,
    new_token_ids: Sequence[int] = (),
    context: ContextParallelGroup | None = None,
) -> PreparedModel:
    """Change the loaded model in place, and verify each change on it, as training will call it.

    Raises ConfigError when documents that must be packed would see each other, or sequence shards
    would not give what whole rows give, or cut matrices what whole ones do.
    """
    if config.adapter.method is AdapterMethod.qlora:
        quantise(model, config.adapter, device)
    trained = add_adapter(model, config.adapter, seed=config.seed, new_token_ids=new_token_ids)
    shape = shape_of(model)
    sharded = wants_shards(config.trainer)
    if sharded:
        shard(trained, model, device, replicas=config.trainer.fsdp_replicas)
    if config.data.position_skipping is not PositionSkipping.none:
        model_internals.read_documents_by_restarts()
    packed, choice = settle_attention(model, trained, packing, attention)
    if packed != packing and config.sweep.budget is not Budget.own:
        raise ConfigError(
            f"sweep.budget={config.sweep.budget} counts packed rows, and here {packed.reason}: "
            "set sweep.budget=own."
        )
    if config.data.position_skipping is not PositionSkipping.none:
        log.info("%s", skipping_line(config, model, trained if packed.packed else None))
    loss = install_chunked_loss(model, loss_plan, called=trained)
    log.info("%s", loss)
    tiled = tile_layers(model, tiling, called=trained)
    if tiling.tile_tokens is not None:
        log.info("%s", tiled)
    if context is not None:
        check = verify_context_parallel(model, context, trained)
        log.info("context         %s", check.sentence())
    tensor_parallel_size = config.trainer.tensor_parallel_size
    if tensor_parallel_size > 1:
        log.info("tensors         %s", verify_tensor_parallel(model, trained).sentence())
    return PreparedModel(
        model=trained,
        packing=packed,
        attention=choice,
        loss=loss,
        shape=shape,
        sharded=sharded or tensor_parallel_size > 1,
        context=context,
        tensor_parallel_size=tensor_parallel_size,
    )


def skipping_line(config: AppConfig, model: PreTrainedModel, packs: nn.Module | None) -> str:
    """Say at which positions rows are trained; `packs`, given packed rows, is verified to do so."""
    found = "batches are masked" if packs is None else verify_skipped_positions(model, packs)
    return (
        f"positions       up to {config.target_length:,} in rows of {config.context_length:,}: "
        f"data.position_skipping=pose leaves a stretch out of each document (arXiv:2309.10400); "
        f"{found}"
    )


def settle_attention(
    model: PreTrainedModel, trained: nn.Module, packing: PackingPlan, attention: AttentionPlan
) -> tuple[PackingPlan, AttentionChoice]:
    """Verify that packed documents stay apart, or that padding leaves rows of batches alone.

    With data.packing=auto a model that lets documents see each other gets batches of documents of
    similar length. Raises ConfigError when packing was asked for and cannot be had, and where
    padding would change what a row's tokens get.
    """
    choice = None
    if packing.packed:
        try:
            choice = verify_attention(model, attention, trained)
        except DocumentsLeak as leak:
            if packing.asked_for:
                raise
            packing = PackingPlan(False, f"{type(model).__name__} lets documents see each other")
            log.warning("%s: %s", packing, leak.findings)
    choice = choice or verify_padded(model, trained, attention)
    use_attention(model, choice.name)
    log.info("%s", choice)
    return packing, choice
