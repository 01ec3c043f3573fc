"""Linear layers whose weight a family reads past them, so that an adapter on them is not called.

Kernels take weights and no layers: those of mamba-ssm do the output projection of a Mamba layer,
Mamba-1's the projections inside it, too; Jamba multiplies with a weight itself. PEFT knows of
some, by names of families; here the code of the modules is asked.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

READ = re.compile(r"\bself\.(\w+)\.weight\b(?!\s*(?:\[|\.(?:dtype|device|shape|size|ndim)\b))")
"""A weight that is handed on: neither asked what it is like, nor cut (Bloom's emulation of slices,
which no checkpoint has on)."""


def uncalled_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear layers whose weight the module around them reads."""
    found = []
    for name, module in model.named_modules():
        family_class: Any = type(module)
        read = _read_by(family_class)
        found += [
            f"{name}.{child}" if name else child
            for child, layer in module.named_children()
            if child in read and isinstance(layer, nn.Linear)
        ]
    return found


@functools.cache
def _read_by(module_class: Any) -> frozenset[str]:
    """Return the names of children whose weight the methods of a class read."""
    methods = [
        method
        for owner in module_class.__mro__
        if issubclass(owner, nn.Module) and not owner.__module__.startswith("torch.")
        for name, method in vars(owner).items()
        if inspect.isfunction(method) and "init" not in name and not name.startswith("reset")
    ]
    return frozenset(name for method in methods for name in READ.findall(_source(method)))


def _source(method: Callable[..., object]) -> str:
    try:
        return inspect.getsource(method)
    except (OSError, TypeError):  # made at run time
        return ""
