"""Each rank's own rows of the weights: read from the files, or received from rank 0.

FSDP2 shards a model whose parameters are on the meta device without a byte of memory, and quantised
layers are built the same way: so no device holds all weights. Of a weight that the files hold as it
is, or row by row, every rank reads its own rows. What rank 0 alone has read, into its host's
memory, is scattered or broadcast, one weight after the other: every other rank receives its own
rows and nothing else, and rank 0's device holds one whole parameter at a time.
"""

import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from sft_app.common import ranks
from sft_app.loader.checkpoint.stored_weights import StackedWeight, StoredWeight, stored_weight_of
from sft_app.loader.model.broadcast import places_of
from sft_app.loader.model.read_rows import RowReader


def move_to_meta(model: nn.Module) -> dict[str, Tensor]:
    """Leave every parameter of `model` without memory; return what they held, on rank 0 only.

    The other ranks take over rank 0's dtypes: some families keep layers in float32, which only who
    reads the checkpoint knows. Tied parameters stay tied, and count once; buffers stay as they are.
    """
    parameters = dict(model.named_parameters())
    own = [(name, tuple(p.shape), p.dtype) for name, p in parameters.items()]
    message = [own]
    if ranks.is_distributed():
        dist.broadcast_object_list(message, src=0)
    (layout,) = message
    if [entry[:2] for entry in layout] != [entry[:2] for entry in own]:
        raise RuntimeError("the ranks built different models: their parameters differ")
    places = places_of(model)
    for name, shape, dtype in layout:
        old = parameters[name]
        empty = torch.empty(shape, dtype=dtype, device="meta")
        replace(places[id(old)], nn.Parameter(empty, requires_grad=old.requires_grad))
    if not ranks.is_main():
        return {}
    return {name: parameter.detach() for name, parameter in parameters.items()}


def stored_weights(model: nn.Module) -> dict[str, StoredWeight | StackedWeight]:
    """Return, by the name of the parameter, where weights are stored that nobody has read."""
    found = {name: stored_weight_of(p) for name, p in model.named_parameters()}
    return {name: stored for name, stored in found.items() if stored is not None}


def fill_shards(
    model: nn.Module,
    weights: dict[str, Tensor],
    stored: dict[str, StoredWeight | StackedWeight],
    device: torch.device,
) -> None:
    """Fill the shards of `model`, which `fully_shard` made of parameters without memory.

    `weights` is what `move_to_meta` returned, and is left empty; those that are `stored` are read
    by each rank. Raises ConfigError, on all ranks, for what cannot be read, or is not finite.
    """
    places = places_of(model)
    reader = RowReader()
    num_shards = 1
    for name, empty in list(model.named_parameters()):
        assert isinstance(empty, DTensor) and empty.placements[-1] == Shard(0), name
        num_shards = empty.device_mesh.size(-1)  # of each copy, where there are several
        whole = weights.pop(name, None)
        if name in stored:
            mine = _own_rows(empty.shape[0], num_shards)
            rows = reader.rows(stored[name], mine, empty.shape, empty.dtype, device)
        else:
            rows = _scatter_rows(whole, empty.shape, empty.dtype, device, num_shards)
        filled = DTensor.from_local(
            rows,
            empty.device_mesh,
            empty.placements,
            run_check=False,
            shape=empty.shape,
            stride=empty.stride(),
        )
        replace(places[id(empty)], nn.Parameter(filled, requires_grad=empty.requires_grad))
    if stored:
        reader.check(num_shards=num_shards)
    broadcast_buffers(model, device)


def broadcast_weights(
    model: nn.Module, weights: dict[str, Tensor], device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter by name, whole and on `device`, on every rank: drop it before the next.

    The parameters of `model` are without memory; `weights` is what `move_to_meta` returned, and is
    left empty.
    """
    has_weights = bool(weights)
    for name, empty in list(model.named_parameters()):
        if has_weights:
            whole = weights.pop(name).to(device)
        else:
            whole = torch.empty(empty.shape, dtype=empty.dtype, device=device)
        if ranks.is_distributed():
            dist.broadcast(whole, src=0)
        yield name, whole


def broadcast_buffers(model: nn.Module, device: torch.device) -> None:
    """Broadcast rank 0's buffers to every rank's device.

    In its dtypes, too: some families keep some in float32, which only who reads them knows.
    """
    places = places_of(model)
    buffers = [buffer for _, buffer in model.named_buffers()]
    message = [[buffer.dtype for buffer in buffers]]
    if ranks.is_distributed():
        dist.broadcast_object_list(message, src=0)
    for buffer, dtype in zip(buffers, message[0], strict=True):
        if buffer.is_meta:
            whole = torch.empty_like(buffer, device=device, dtype=dtype)
        else:
            whole = buffer.to(device=device, dtype=dtype)
        if ranks.is_distributed():
            dist.broadcast(whole, src=0)
        replace(places[id(buffer)], whole)


def replace(places: list[tuple[nn.Module, str]], tensor: Tensor) -> None:
    """Put `tensor` wherever the parameter or buffer that it replaces is referred to."""
    for module, attribute in places:
        setattr(module, attribute, tensor)


def _scatter_rows(
    whole: Tensor | None,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    num_shards: int,
) -> Tensor:
    """Return this rank's rows of `whole`, which rank 0 has, in the sizes of FSDP2 (torch.chunk)."""
    length = math.ceil(shape[0] / num_shards)
    mine = torch.empty((length, *shape[1:]), dtype=dtype, device=device)
    parts = None
    if whole is not None:
        on_device = whole.to(device)
        of_a_copy = [_padded(on_device[p * length :][:length], length) for p in range(num_shards)]
        parts = of_a_copy * (ranks.world_size() // num_shards)
    dist.scatter(mine, parts, src=0)
    return mine[: len(_own_rows(shape[0], num_shards))]


def _own_rows(num_rows: int, num_shards: int) -> range:
    """Return which rows are this rank's, in the sizes of FSDP2 (torch.chunk)."""
    length = math.ceil(num_rows / num_shards)
    start = min(num_rows, ranks.rank() % num_shards * length)
    return range(start, min(num_rows, start + length))


def _padded(rows: Tensor, length: int) -> Tensor:
    """Contiguous, and as long as those of the other ranks: a collective takes equal ones."""
    if len(rows) == length:
        return rows.contiguous()
    padded = rows.new_zeros((length, *rows.shape[1:]))
    padded[: len(rows)] = rows
    return padded
