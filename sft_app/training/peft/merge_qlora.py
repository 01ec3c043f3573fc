"""After QLoRA: the adapter added to weights of full precision.

PEFT can merge an adapter into weights of 4 bits, and rounds the sum to 4 bits again. Here the base
is read once more, in its own dtype, into the host's memory of rank 0, and the adapter added there.
"""

import logging
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from sft_app.common import ranks
from sft_app.config.schema.app import AppConfig
from sft_app.loader.model.broadcast import receive_weights, send_weights
from sft_app.loader.model.embeddings import fit_model_to_tokenizer
from sft_app.loader.model.load_model import load_model
from sft_app.training.model_plan import ModelPlans
from sft_app.training.peft.lora import merge_adapter, put_adapter
from sft_app.training.peft.save_adapter import stage_adapter

log = logging.getLogger(__name__)


def merge_into_full_precision(
    trained: nn.Module,
    config: AppConfig,
    plans: ModelPlans,
    device: torch.device,
    adapter_dir: Path,
) -> PreTrainedModel:
    """Return the plain model, on rank 0 in the host's memory, elsewhere without memory.

    The adapter alone is staged for `adapter_dir`. `trained`, PEFT's wrapper of the quantised model,
    is spent: it leaves the device.
    """
    adapter = {n: p.detach().cpu() for n, p in trained.named_parameters() if p.requires_grad}
    release(trained)
    base = load_model(
        config.model,
        plans.pretrained,
        plans.rope,
        device=device,
        frozen=True,
        on_host_of_rank_0=True,
        float32_names=plans.precision.float32_names,
    )
    fit_model_to_tokenizer(base, plans.tokenizer, plans.tokenizer_plan)
    if not ranks.is_main():
        return base
    whole = put_adapter(base, config.adapter, plans.tokenizer_plan.new_row_ids)
    unknown = whole.load_state_dict(adapter, strict=False).unexpected_keys
    assert not unknown, f"the adapter has places that the model lacks: {unknown}"
    added = bool(plans.tokenizer_plan.new_row_ids)
    stage_adapter(whole, config.model, adapter_dir, with_embeddings=added)
    merged = merge_adapter(whole)
    log.info("adapter         merged into weights in %s, read once more", str(base.dtype))
    return merged


def release(model: nn.Module) -> None:
    """Give back the memory of all parameters, whoever still refers to the model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def bring_to_device(model: PreTrainedModel, device: torch.device) -> bool:
    """Put what rank 0 holds in the host's memory, in full precision, whole on every device.

    False, and nothing done, where a device has no room for it: then 4 bits were a necessity.
    """
    needed = sum(p.nbytes for p in model.parameters())
    if not has_room(needed, device):
        log.warning(
            "evaluation      left out: in full precision the model takes %.1f GiB, and the device "
            "has no room for it",
            needed / 2**30,
        )
        return False
    if not ranks.is_distributed():
        model.to(device)
    elif ranks.is_main():
        send_weights(model.to(device))
    else:
        receive_weights(model, device)
    return True


def has_room(num_bytes: int, device: torch.device) -> bool:
    """Tell whether every rank's device has room, with a tenth to spare; the host has it already."""
    if device.type != "cuda":
        return True
    free = torch.tensor(torch.cuda.mem_get_info(device)[0], device=device)
    if ranks.is_distributed():
        dist.all_reduce(free, op=dist.ReduceOp.MIN)
    return 1.1 * num_bytes < free.item()
