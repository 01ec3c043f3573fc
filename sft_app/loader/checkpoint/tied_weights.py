"""Weights that an architecture has once and a checkpoint's files twice: are they the same?

A fine-tune whose head went its own way, below a config.json that still ties it to the embedding, is
read with that head by some programs and without it by others.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.checkpoint.stored_tensor import Headers
from sft_app.loader.checkpoint.tensor_headers import weights_folder

_ROWS = 4096
"""Rows that are compared at once."""


def check_ties(
    checkpoint: Checkpoint, headers: Headers, twice: list[tuple[str, str]], name: str
) -> None:
    """Raise ConfigError where two tensors that config.json ties differ.

    Only for files on this machine; others are looked at when they are loaded (`check_tied`).
    """
    folder = weights_folder(checkpoint)
    if folder is None:
        return
    for target, source in twice:
        if not _equal(folder, headers, target, source):
            raise _refusal(name, target, source)


def check_tied(model: PreTrainedModel, name: str) -> None:
    """Raise ConfigError where a loaded model has a head of its own, and config.json says none.

    transformers unties the two with a warning, and what it saves says still that they are one.
    """
    meant = model.get_expanded_tied_weights_keys(all_submodels=True)
    for target in meant.keys() - model.all_tied_weights_keys.keys():
        raise _refusal(name, target, meant[target])


def _equal(folder: Path, headers: Headers, first: str, second: str) -> bool:
    if headers[first].shape != headers[second].shape:
        return False
    if not all(headers[name].file.endswith(".safetensors") for name in (first, second)):
        return True  # pickled ones hold both names and one memory; looked at when loaded
    with (
        safe_open(folder / headers[first].file, "pt") as one,
        safe_open(folder / headers[second].file, "pt") as other,
    ):
        left, right = one.get_slice(first), other.get_slice(second)
        rows = headers[first].shape[0]
        return all(
            torch.equal(left[at : at + _ROWS].float(), right[at : at + _ROWS].float())
            for at in range(0, rows, _ROWS)
        )


def _refusal(name: str, target: str, source: str) -> ConfigError:
    return ConfigError(
        f"model.name_or_path: the config.json of {name!r} ties {target} to {source} "
        "(tie_word_embeddings), and its files have other numbers in each, of which some programs "
        'would read the one and some both; write "tie_word_embeddings": false into config.json if '
        "the head is its own."
    )
