"""FSDP2: parameters, gradients and optimizer state in shards, one on each rank.

`fully_shard` is applied here rather than by accelerate, because accelerate knows it on accelerators
only: so the path that two CPU ranks test is the one that GPUs take. Each decoder layer is gathered
when it is needed and let go afterwards; what stands around the layers (embedding, last norm, head)
is one more group, whole while the chunked loss reads the head's weight.

No device ever holds the whole model: every rank shards the same model without memory, and then
reads its own rows of each weight from the files. Where those hold neither the weights as the model
has them nor their rows (experts), rank 0 reads them into its host's memory, and scatters one
parameter after the other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from transformers import PreTrainedModel

from sft_app.common import ranks
from sft_app.common.errors import ConfigError
from sft_app.compat import model_internals
from sft_app.config.schema.trainer import Parallelism, TrainerConfig
from sft_app.training.decoder_layers import decoder_layers
from sft_app.training.parallel.distribute_weights import fill_shards, move_to_meta, stored_weights
from sft_app.training.precision import compute_dtype
from sft_app.training.saving.checkpoints import SHARDS


def wants_shards(trainer: TrainerConfig) -> bool:
    """Tell whether the model is sharded: a single process has nothing to share."""
    return ranks.is_distributed() and trainer.parallelism is Parallelism.fsdp


def shard(
    trained: nn.Module, model: PreTrainedModel, device: torch.device, *, replicas: int = 1
) -> None:
    """Shard `trained` (the model, or PEFT's wrapper of it) in place over all ranks.

    With `replicas`, which divide the ranks, consecutive ranks share one copy (HSDP). Rank 0 holds
    the weights; on the other ranks parameters may be without memory. Raises ConfigError where it
    cannot be had.
    """
    if not model_internals.trainer_takes_sharded_models():
        raise ConfigError(
            "trainer.parallelism=fsdp needs transformers 5.23 or newer: older Trainers would wrap "
            "the sharded model once more. Upgrade it, or use trainer.parallelism=ddp."
        )
    layers = decoder_layers(model)
    if not layers:
        raise ConfigError(
            f"trainer.parallelism=fsdp: {type(model).__name__} does not name its layers; use "
            "trainer.parallelism=ddp."
        )
    stored = stored_weights(trained)
    weights = move_to_meta(trained)
    mesh = _mesh(device, replicas)
    compute = compute_dtype(model, device)
    # Layers are gathered as they are multiplied: half the bytes. What flows between them stays as
    # it is: embeddings are whole float32, and so is the residual stream, as without shards.
    of_layers = MixedPrecisionPolicy(
        param_dtype=compute if compute != model.dtype else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    around = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=of_layers)
    # The outermost module: its forward is the one that is called, so its hooks run.
    fully_shard(trained, mesh=mesh, mp_policy=around)
    fill_shards(trained, weights, stored, device)


def _mesh(device: torch.device, replicas: int) -> DeviceMesh:
    if replicas == 1:
        return init_device_mesh(device.type, (ranks.world_size(),))
    shape = (replicas, ranks.world_size() // replicas)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicas", "shards"))


def reshard(trained: nn.Module) -> None:
    """Free what a forward without a backward has left gathered; nothing where nothing is sharded.

    Until then the optimizer's parameters are not those that the model shows.
    """
    for module in trained.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_weights(trained: nn.Module) -> dict[str, Tensor]:
    """Return all weights, whole and on the CPU, on rank 0; nothing elsewhere. Every rank calls it.

    They are gathered one by one, and leave the device before the next one is: so a device holds
    its shards and the largest of them.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(trained, options=options)
    return weights


def save_shards(trained: nn.Module, optimizer: Any, directory: Path) -> None:
    """Write this rank's shards of weights and optimizer state below `directory`."""
    weights, state = get_state_dict(trained, _plain(optimizer))
    parts = {"model": weights, "optimizer": state}
    save(_contiguous(parts), checkpoint_id=directory / SHARDS)


def load_shards(trained: nn.Module, optimizer: Any, directory: Path) -> None:
    """Read what `save_shards` wrote, also by another number of ranks."""
    if not (directory / SHARDS).is_dir():
        raise ConfigError(
            f"trainer.resume_from_checkpoint={directory} was written whole, and "
            "this run is sharded: continue it the way it began."
        )
    optimizer = _plain(optimizer)
    weights, state = get_state_dict(trained, optimizer)
    own: dict[str, Any] = {"model": weights, "optimizer": state}
    parts = _contiguous(own)
    load(parts, checkpoint_id=directory / SHARDS)
    parts = _placed_as(own, parts)
    set_state_dict(
        trained,
        optimizer,
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
    )


def _contiguous(state: Any) -> Any:
    """Return a state whose shards are whole parts of tensors, as files of shards have them.

    Of two matrices in one, as experts have theirs, a tensor-parallel rank has a part of each.
    """
    if isinstance(state, DTensor):
        placements = [_unstrided(p) for p in state.placements]
        return state if tuple(placements) == state.placements else _redistributed(state, placements)
    if isinstance(state, dict):
        return {name: _contiguous(value) for name, value in state.items()}
    return state


def _placed_as(own: Any, state: Any) -> Any:
    """Return a state in the shards of `own`, which has the same entries."""
    if isinstance(own, DTensor):
        return (
            state if own.placements == state.placements else _redistributed(state, own.placements)
        )
    if isinstance(own, dict):
        return {name: _placed_as(value, state[name]) for name, value in own.items()}
    return state


def _unstrided(placement: Placement) -> Placement:
    is_plain = type(placement) in (Shard, Replicate)
    return placement if is_plain else Shard(getattr(placement, "dim"))  # noqa: B009


@torch.no_grad()
def _redistributed(tensor: DTensor, placements: Sequence[Placement]) -> DTensor:
    moved: DTensor = tensor.redistribute(placements=placements)
    return moved


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", optimizer)
    assert isinstance(inner, torch.optim.Optimizer)
    return inner
