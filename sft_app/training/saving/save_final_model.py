"""What training leaves: a plain model, whole, in the dtype that its checkpoint had."""

import logging
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from sft_app.common import ranks
from sft_app.common.raise_together import succeeding_together
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.loader.model.save_pretrained import save_for_serving, saved_dtypes
from sft_app.records.disk_space import check_space, explain_full_disk
from sft_app.records.manifest import publish, write_manifest
from sft_app.records.run_files import ADAPTER
from sft_app.training.guards.step_guard import check_weights
from sft_app.training.model_plan import ModelPlans
from sft_app.training.parallel.fsdp import gather_weights
from sft_app.training.peft.lora import merge_adapter, merge_gathered, plain_model
from sft_app.training.peft.merge_qlora import merge_into_full_precision
from sft_app.training.peft.merge_shards import gather_adapter, gather_merged, plain_state
from sft_app.training.peft.save_adapter import publish_adapter, stage_adapter
from sft_app.training.precision import round_weights
from sft_app.training.prepare_model import PreparedModel
from sft_app.training.saving.sharded_files import FilesPlan, gather_from, plan_files, write_files

log = logging.getLogger(__name__)

WHOLE = "rank 0 gathers the model into its host's memory: its tensors are not saved one by one"


def save_final_model(
    prepared: PreparedModel,
    config: AppConfig,
    plans: ModelPlans,
    directory: Path,
    device: torch.device,
) -> nn.Module:
    """Write the trained model to `directory`, and return it as it can be evaluated.

    Every rank calls it; it is written aside first: the folder is whole or absent. Sharded models
    stay sharded: the ranks of rank 0's node write files of them, gathered, and an adapter merged,
    tensor by tensor. Where an adapter has rows of added tokens rank 0 gathers all, and writes. An
    adapter is saved beside the model, too. After QLoRA the weights are rank 0's alone, in the
    host's memory. Raises TrainingDiverged when a weight is no number, ConfigError when one is too
    large for the dtype that is saved, and DiskFull.
    """
    check_weights(prepared.model, "at the end of training")
    model: nn.Module = prepared.model
    adapter_dir = directory.with_name(ADAPTER)
    saved, files, weights, adapter = plans.precision.saved, None, None, None
    if prepared.sharded:
        files = _plan_files(prepared.model, plans)
        log.info("saving          %s", files or WHOLE)
        if files is None:
            adapter = weights = gather_weights(prepared.model)
        elif config.adapter.method is AdapterMethod.lora:
            adapter = gather_adapter(prepared.model)
    if config.adapter.method is AdapterMethod.lora and ranks.is_main():
        added = bool(plans.tokenizer_plan.new_row_ids)
        stage_adapter(
            prepared.model, config.model, adapter_dir, with_embeddings=added, weights=adapter
        )
    if config.adapter.method is AdapterMethod.qlora:
        model = merge_into_full_precision(prepared.model, config, plans, device, adapter_dir)
    elif not prepared.sharded:
        model = merge_adapter(prepared.model)
    if isinstance(model, PreTrainedModel):
        with succeeding_together(prepared.sharded):
            round_weights(model, saved, saved_dtypes(model, plans.weights, saved))
    staged = directory.with_name(f".{directory.name}.partial")
    what, needed = "the final model", _bytes_of(model, saved)
    try:
        with succeeding_together(files is not None):
            if ranks.is_main():
                shutil.rmtree(staged, ignore_errors=True)
                check_space(directory.parent, needed, what)
                save_for_serving(
                    plain_model(model),
                    plans.tokenizer,
                    plans.rope,
                    plans.tokenizer_plan,
                    staged,
                    weights_plan=plans.weights,
                    dtype=saved,
                    state_dict=merge_gathered(prepared.model, weights) if weights else None,
                    without_weights=files is not None,
                )
        if files is not None:
            is_plain = isinstance(model, PreTrainedModel)
            gather = gather_from(model) if is_plain else gather_merged(model)
            write_files(files, plain_model(model), gather, staged)
        if ranks.is_main():
            write_manifest(staged, all_finite=True)
            publish(staged, directory)
            publish_adapter(adapter_dir, directory)
    except Exception as error:
        explain_full_disk(error, directory.parent, needed, what)
        raise
    finally:
        if ranks.is_main():
            shutil.rmtree(staged, ignore_errors=True)
    ranks.barrier()
    return model


def _plan_files(trained: nn.Module, plans: ModelPlans) -> FilesPlan | None:
    """Return how all ranks write a sharded model; None where rank 0 has to; a collective."""
    model, saved = plain_model(trained), plans.precision.saved
    state = None
    if trained is not model:
        state = plain_state(trained)
        if state is None:
            return None
    return plan_files(model, saved, saved_dtypes(model, plans.weights, saved), state=state)


def _bytes_of(model: nn.Module, saved: torch.dtype) -> int:
    """Return about how much the saved weights take."""
    return sum(parameter.numel() for parameter in plain_model(model).parameters()) * saved.itemsize
