"""FSDP2: parameters, gradients and optimizer state in shards, one on each rank.

`fully_shard` is applied here rather than by accelerate, because accelerate knows it on accelerators
only: so the path that two CPU ranks test is the one that GPUs take. Each decoder layer is gathered
when it is needed and let go afterwards; what stands around the layers (embedding, last norm, head)
is one more group, whole while the chunked loss reads the head's weight.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel, Trainer

from sft_app.config.errors import ConfigError
from sft_app.training.checkpoints import SHARDS


def shard(trained: nn.Module, model: PreTrainedModel, device: torch.device) -> bool:
    """Shard `trained` (the model, or PEFT's wrapper of it) in place over all ranks.

    False, and nothing done, in a single process. Raises ConfigError where it cannot be had.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    if not hasattr(Trainer, "_sync_replicated_trainable_parameters"):
        raise ConfigError(
            "trainer.parallelism=fsdp needs transformers 5.23 or newer: older Trainers would wrap "
            "the sharded model once more. Upgrade it, or use trainer.parallelism=ddp."
        )
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise ConfigError(
            f"trainer.parallelism=fsdp: {type(model).__name__} does not name its layers; use "
            "trainer.parallelism=ddp."
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    # The outermost module: its forward is the one that is called, so its hooks run.
    fully_shard(trained, mesh=mesh)
    return True


def gather_weights(trained: nn.Module) -> dict[str, Tensor]:
    """All weights, whole and on the CPU, on rank 0; nothing elsewhere. Every rank calls it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(trained, options=options)
    return weights


def save_shards(trained: nn.Module, optimizer: Any, directory: Path) -> None:
    """Each rank writes its part of weights and optimizer state below `directory`."""
    weights, state = get_state_dict(trained, _plain(optimizer))
    save({"model": weights, "optimizer": state}, checkpoint_id=directory / SHARDS)


def load_shards(trained: nn.Module, optimizer: Any, directory: Path) -> None:
    """What `save_shards` wrote, also by another number of ranks."""
    if not (directory / SHARDS).is_dir():
        raise ConfigError(
            f"trainer.resume_from_checkpoint={directory} was written whole, and "
            "this run is sharded: continue it the way it began."
        )
    optimizer = _plain(optimizer)
    weights, state = get_state_dict(trained, optimizer)
    parts: dict[str, Any] = {"model": weights, "optimizer": state}
    load(parts, checkpoint_id=directory / SHARDS)
    set_state_dict(
        trained,
        optimizer,
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
    )


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", optimizer)
    assert isinstance(inner, torch.optim.Optimizer)
    return inner
