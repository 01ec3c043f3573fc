"""Loading in several processes: one reads the weights, the others receive them.

N processes that each read a checkpoint read it N times, and hold it N times in memory at the
moment of the most. Here the others build the model without memory for its parameters and allocate
each tensor when it arrives: no process ever holds two copies.
"""

import torch
import torch.distributed as dist
from torch import nn

Layout = list[tuple[str, tuple[int, ...], torch.dtype]]


def send_weights(model: nn.Module) -> None:
    """Broadcast every parameter and persistent buffer, one after the other; for rank 0."""
    tensors = _unique_state(model)
    layout: Layout = [(name, tuple(t.shape), t.dtype) for name, t in tensors.items()]
    dist.broadcast_object_list([layout], src=0)
    for tensor in tensors.values():
        dist.broadcast(tensor.detach().contiguous(), src=0)


def receive_weights(model: nn.Module, device: torch.device) -> None:
    """Fill `model`, whose parameters are on the meta device, with what rank 0 sends.

    Tied parameters stay tied. Buffers that are not part of the state (inverse frequencies) must
    have been computed already.
    """
    message: list[Layout | None] = [None]
    dist.broadcast_object_list(message, src=0)
    layout = message[0]
    assert layout is not None
    expected = _unique_state(model)
    if [name for name, _, _ in layout] != list(expected):
        raise RuntimeError("the ranks built different models: their parameters have other names")
    places = places_of(model)
    for name, shape, dtype in layout:
        tensor = torch.empty(shape, dtype=dtype, device=device)
        dist.broadcast(tensor, src=0)
        old = expected[name]
        new = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        for module, attribute in places[id(old)]:
            setattr(module, attribute, new)
    model.to(device)


def places_of(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return every (module, attribute) that holds a tensor, by the tensor's identity."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        own = (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
        for attribute, tensor in own:
            places.setdefault(id(tensor), []).append((module, attribute))
    return places


def _unique_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """name -> tensor; of tied ones only the first."""
    seen: set[int] = set()
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state
