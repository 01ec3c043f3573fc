"""Inputs of checkpointed layers in the host's memory, copied while other layers compute."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from sft_app.common.errors import ConfigError
from sft_app.compat import model_internals
from sft_app.training.activation_memory.host_copies import HostCopies
from sft_app.training.decoder_layers import decoder_layers

log = logging.getLogger(__name__)


class OffloadActivations(TrainerCallback):
    """Takes the inputs off the device when the Trainer has turned checkpointing on.

    `model` is the loaded one, also from inside PEFT's wrapper. Raises ConfigError when it does not
    name its layers.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        """Find the layers of the loaded model; they compute on `device`."""
        self.layers = decoder_layers(model)
        self.copies = HostCopies(device)
        self._before: list[tuple[nn.Module, Callable[..., Any]]] = []
        if not self.layers:
            raise ConfigError(
                f"trainer.gradient_checkpointing_kwargs.offload=true: {type(model).__name__} does "
                "not name its layers; leave it out."
            )

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Keep on the host what each recomputed layer is given."""
        for layer in self.layers:
            recompute = model_internals.recomputation(layer)
            if recompute is not None and getattr(layer, "gradient_checkpointing", False):
                model_internals.set_recomputation(layer, self._offloading(recompute))
                self._before.append((layer, recompute))
        log.info(
            "offload         what %d layers are given waits in the host's memory, copied while "
            "others compute",
            len(self._before),
        )

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Put back how layers were recomputed."""
        for layer, recompute in self._before:
            model_internals.set_recomputation(layer, recompute)

    def _offloading(self, recompute: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(recompute)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.copies.keeping():
                return recompute(*args, **kwargs)

        return run
