"""What training leaves: a plain model, whole, in the dtype that its checkpoint had."""

import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from sft_app.common import ranks
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
from sft_app.training.peft.save_adapter import publish_adapter, stage_adapter
from sft_app.training.precision import round_weights
from sft_app.training.prepare_model import PreparedModel


def save_final_model(
    prepared: PreparedModel,
    config: AppConfig,
    plans: ModelPlans,
    directory: Path,
    device: torch.device,
) -> nn.Module:
    """Write the trained model to `directory`, and return it as it can be evaluated.

    Every rank calls it; rank 0 writes, aside first: the folder is whole or absent. Sharded
    models are gathered for that and stay sharded; an adapter is merged, and saved beside the model.
    After QLoRA the weights are rank 0's alone, in the host's memory. Raises TrainingDiverged when a
    weight is no number, and DiskFull.
    """
    check_weights(prepared.model, "at the end of training")
    model: nn.Module = prepared.model
    adapter_dir = directory.with_name(ADAPTER)
    weights = gather_weights(prepared.model) if prepared.sharded else None
    if config.adapter.method is AdapterMethod.lora and ranks.is_main():
        added = bool(plans.tokenizer_plan.added_token_ids)
        stage_adapter(
            prepared.model, config.model, adapter_dir, with_embeddings=added, weights=weights
        )
    if config.adapter.method is AdapterMethod.qlora:
        model = merge_into_full_precision(prepared.model, config, plans, device, adapter_dir)
    elif not prepared.sharded:
        model = merge_adapter(prepared.model)
    if isinstance(model, PreTrainedModel):
        saved = plans.precision.saved
        round_weights(model, saved, saved_dtypes(model, plans.weights, saved))
    if ranks.is_main():
        staged = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(staged, ignore_errors=True)
        what, needed = "the final model", _bytes_of(model, plans.precision.saved)
        check_space(directory.parent, needed, what)
        try:
            save_for_serving(
                plain_model(model),
                plans.tokenizer,
                plans.rope,
                plans.tokenizer_plan,
                staged,
                weights_plan=plans.weights,
                dtype=plans.precision.saved,
                state_dict=merge_gathered(prepared.model, weights) if weights else None,
            )
            write_manifest(staged, all_finite=True)
            publish(staged, directory)
            publish_adapter(adapter_dir, directory)
        except Exception as error:
            explain_full_disk(error, directory.parent, needed, what)
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    ranks.barrier()
    return model


def _bytes_of(model: nn.Module, saved: torch.dtype) -> int:
    """Return about how much the saved weights take."""
    return sum(parameter.numel() for parameter in plain_model(model).parameters()) * saved.itemsize
