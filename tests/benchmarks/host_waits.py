"""Where Python waits for the device, counted on a machine that has none.

Tensors are told apart as if the device were another one than the host: on it are the model's
parameters, what is made or moved with a `torch.device` (as a model's or a Trainer's is; "cpu" as a
string is the host), and whatever is computed from those. Asking for the value of one of them is a
wait. What C++ asks for by itself (a gradient scaler's check, say) is not seen.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

READS = {
    "item", "tolist", "cpu", "numpy", "nonzero", "argwhere", "unique", "masked_select", "equal",
    "allclose", "__bool__", "__int__", "__float__", "__index__", "__contains__",
}  # fmt: skip
MARK = "on_device"


class HostWaits(TorchFunctionMode):
    """Counts the places that read values of a device, by file and line, while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        """Begin with none; the parameters of `model` are on the device."""
        super().__init__()
        self.places: Counter[str] = Counter()
        for parameter in model.parameters():
            setattr(parameter, MARK, True)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count, do what was asked, and mark what comes out."""
        kwargs = kwargs or {}
        given = [*args, *kwargs.values()]
        on_device = any(map(is_on_device, given))
        if on_device and _reads_values(func, args):
            self.places[_caller()] += 1
        result = func(*args, **kwargs)
        to_host = (
            any(isinstance(one, str) and one == "cpu" for one in given)
            or getattr(func, "__name__", "") in READS
        )
        if to_host and is_on_device(result):  # here the very same tensor: a copy elsewhere
            return result.view_as(result)
        moved = not on_device and torch.device in map(type, given)
        if moved and any(result is one for one in given):  # what was moved stays on the host
            result = result.view_as(result)
        if (on_device or moved) and not to_host:
            _mark(result)
        return result

    @property
    def total(self) -> int:
        """How often values were read."""
        return self.places.total()


def is_on_device(value: object) -> bool:
    """Tell whether a tensor, or one in a list or tuple, is on the device."""
    if isinstance(value, list | tuple):
        return any(map(is_on_device, value))
    return isinstance(value, torch.Tensor) and getattr(value, MARK, False)


def _mark(result: object) -> None:
    if isinstance(result, torch.Tensor):
        setattr(result, MARK, True)
    elif isinstance(result, list | tuple):
        for one in result:
            _mark(one)


def _reads_values(func: Callable[..., Any], args: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__getitem__":
        indices = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)
    return name in READS


def _caller() -> str:
    """Return the innermost line that is neither PyTorch's nor this file's."""
    for frame in reversed(traceback.extract_stack(limit=12)):
        path = Path(frame.filename)
        if path != Path(__file__) and "torch" not in path.parts:
            return f"{path.parent.name}/{path.name}:{frame.lineno} {frame.name}"
    return "?"
