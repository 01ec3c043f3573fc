"""Read a checkpoint's weights back into the model that trains, all of them or none.

A checkpoint has the names and layouts of its family's published files, which transformers makes
when it saves and undoes when it builds a model: experts are stacked, prefixes are put before names.
Its Trainer does not undo them, and goes on with what it does not find.
"""

import copy
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError

SINGLE = "model.safetensors"


@torch.no_grad()
def load_weights(model: PreTrainedModel, checkpoint: Path) -> None:
    """Copy every weight and buffer that is saved with the model out of the checkpoint's files.

    Raises ConfigError where one is missing, or there is one that the model does not have.
    """
    own = dict(model.state_dict())
    single = checkpoint / SINGLE
    if single.is_file():
        with safe_open(single, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            if _holds(own, shapes):
                for name in shapes:
                    own[name].copy_(file.get_tensor(name))
                return
    model.load_state_dict(_built_from(model, checkpoint))


def _holds(own: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Tell whether these are the model's tensors, all but those that share memory with others."""
    if any(name not in own or own[name].shape != shape for name, shape in shapes.items()):
        return False
    stored = {own[name].data_ptr() for name in shapes}
    return all(name in shapes or tensor.data_ptr() in stored for name, tensor in own.items())


def _built_from(model: PreTrainedModel, checkpoint: Path) -> dict[str, Tensor]:
    """Return the state of a second model, on the host, which transformers builds of the files.

    In float32, which holds every number of the 16-bit kinds.
    """
    built, info = type(model).from_pretrained(
        checkpoint,
        config=copy.deepcopy(model.config),
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told below
        local_files_only=True,
    )
    mismatched = (name for name, *_ in info["mismatched_keys"])
    wrong = sorted([*info["missing_keys"], *info["unexpected_keys"], *mismatched])
    if wrong:
        raise ConfigError(
            f"trainer.resume_from_checkpoint: {checkpoint} does not hold the weights of this "
            f"model ({len(wrong)} are missing, or another's: {wrong[0]}, ...); delete it to go on "
            "from the one before, or set trainer.resume_from_checkpoint=never in another folder."
        )
    state: dict[str, Tensor] = built.state_dict()
    return state
