"""Regional compilation: each decoder layer for itself, attention left as it is.

Equal layers share one compilation. Attention inside documents reads their lengths off the batch; it
is kept out of the graph (`torch.compiler.disable` in packed_attention.py), so that a layer is a
compiled part, attention, a compiled part, and other documents compile nothing anew. Rows of another
length do, once: from the second length on, the length is a variable of the compiled code.

Layers are compiled while they train and no longer: evaluation, saving and merging see the plain
model, and names in state dicts never change.
"""

import functools
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback

from sft_app.common.errors import ConfigError
from sft_app.compat import model_internals
from sft_app.training.decoder_layers import decoder_layers

log = logging.getLogger(__name__)


def check_compiler(device: torch.device) -> None:
    """Compile something small; ConfigError where that fails. Call it before weights are loaded."""
    try:
        torch.compile(_twice)(torch.ones(2, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        needs = "triton and a C compiler" if device.type == "cuda" else "a C++ compiler (g++)"
        cause = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"trainer.torch_compile=true needs {needs}, and compiling fails here: {cause}. Install "
            "it, or leave trainer.torch_compile out."
        ) from error


def _twice(tensor: torch.Tensor) -> torch.Tensor:
    return 2 * tensor


class CompileLayers(TrainerCallback):
    """Compiles when the Trainer has wrapped the model and turned checkpointing on.

    `model` is the loaded one, also from inside PEFT's wrapper. Raises ConfigError when it does not
    name its layers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Find the layers of the loaded model."""
        self.layers = decoder_layers(model)
        if not self.layers:
            raise ConfigError(
                f"trainer.torch_compile=true: {type(model).__name__} does not name its layers; "
                "leave it out."
            )
        self._settings = ExitStack()
        """Settings of torch that are put back when training ends."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Compile each layer."""
        # A layer's gradients are ready layer by layer anyway.
        self._settings.enter_context(model_internals.no_ddp_buckets_in_graphs())
        self._recompute = [model_internals.recomputation(layer) for layer in self.layers]
        for layer in self.layers:
            _compile(layer)
        kind = type(self.layers[0]).__name__
        log.info(
            "compile         %d layers (%s), each for itself; attention stays outside, and the "
            "first steps take longer",
            len(self.layers),
            kind,
        )

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Put back the plain layers, and what was set in torch."""
        for layer, recompute in zip(self.layers, self._recompute, strict=True):
            vars(layer).pop("forward", None)
            if recompute is not None:
                model_internals.set_recomputation(layer, recompute)
        self._settings.close()


def _compile(layer: Any) -> None:
    recomputed = getattr(layer, "gradient_checkpointing", False)
    if recomputed and not model_internals.checkpoints_around_forward():
        # What is recomputed is compiled: a graph around it would end at its beginning.
        model_internals.set_recomputation(layer, _compiling(model_internals.recomputation(layer)))
    else:
        # Not Module.compile(): hooks, such as FSDP2's, stay outside.
        layer.forward = torch.compile(layer.forward)


def _compiling(recompute: Callable[..., Any]) -> Callable[..., Any]:
    """`recompute(part, *inputs)` with the function inside the `functools.partial` compiled."""

    def run(part: functools.partial[Any], *inputs: Any) -> Any:
        compiled = _compiled(part.func)
        return recompute(functools.partial(compiled, *part.args, **part.keywords), *inputs)

    return run


@functools.cache
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(forward)
