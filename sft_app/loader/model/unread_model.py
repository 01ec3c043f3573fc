"""A model as transformers loads it, but for the numbers: those stay in the files until asked for.

transformers' own loader is given tensors that repeat one number, and so take no memory, in the
dtypes and shapes that the files' tensors will have in the model. Buffers, tied weights, the
generation configuration and all that a family does on loading are those of a model that was read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.compat import loading_and_saving
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.loader.checkpoint.compare_headers import load_headers
from sft_app.loader.checkpoint.load_report import check_loaded
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.checkpoint.stored_weights import StackedWeight, StoredWeights, mark_stored
from sft_app.loader.checkpoint.tied_weights import check_tied
from sft_app.loader.model.read_rows import RowReader


def build_unread(
    checkpoint: Checkpoint,
    hf_config: PretrainedConfig,
    stored: StoredWeights,
    arguments: Mapping[str, Any],
    name: str,
    *,
    with_embeddings: bool,
) -> PreTrainedModel:
    """Return the model with weights that are noted, not read; on the CPU, for rank 0.

    `arguments` are those of `from_pretrained`. Persistent buffers are read, and with
    `with_embeddings` the embedding and the head, which are about to be changed. Raises ConfigError
    as reading would for tensors that do not fit; numbers are looked at when they are read.
    """
    built_as = type(build_skeleton(hf_config))
    outline, _ = load_headers(built_as, hf_config, stored.headers, **arguments)
    dtypes = {n: t.dtype for n, t in outline.state_dict().items()}
    whole = whole_names(outline, with_embeddings=with_embeddings)
    reader = RowReader()
    state = {
        stored_name: reader.whole(stored.find(own_name), dtypes[own_name])
        if own_name in whole or header.num_elements == 1
        else without_memory(header.shape, dtypes[own_name])
        for own_name, stored_name in stored.names.items()
        for header in (stored.headers[stored_name],)
    }
    for own_name in stored.stacks:  # as they will be: stacking would give them memory
        weight = stored.find(own_name)
        assert isinstance(weight, StackedWeight)
        state[own_name] = (
            reader.whole(weight, dtypes[own_name])
            if own_name in whole
            else without_memory(weight.shape, dtypes[own_name])
        )
    reader.check()
    model, info = built_as.from_pretrained(
        None, config=hf_config, state_dict=state, output_loading_info=True, **arguments
    )
    loading_and_saving.revert_as(model, outline)
    model.config.name_or_path = checkpoint.location
    loading_and_saving.load_generation_config(model, checkpoint.location, checkpoint.arguments())
    check_loaded(info, name)
    check_tied(model, name)
    if any(is_without_memory(p) for p in mark_stored(model, stored, whole)):
        raise RuntimeError("a weight that was not read has no place in the files")
    return model


def whole_names(model: PreTrainedModel, *, with_embeddings: bool) -> set[str]:
    """Return the tensors, by the model's names, that are read whole by rank 0."""
    names = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    if with_embeddings:
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        inside = {id(p) for layer in layers if layer is not None for p in layer.parameters()}
        every = model.named_parameters(remove_duplicate=False)
        names |= {name for name, parameter in every if id(parameter) in inside}
    return names


def without_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor on the CPU that repeats one zero: it can be moved about, not written to."""
    return torch.zeros((), dtype=dtype).expand(shape)


def is_without_memory(tensor: Tensor) -> bool:
    """Tell whether a tensor repeats one number."""
    return tensor.numel() > 1 and not any(tensor.stride())
