"""How transformers and torch run a model and train it, from the inside."""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


def can_set_attention(model_class: type["PreTrainedModel"]) -> bool:
    """Tell whether the family takes its attention from transformers' AttentionInterface."""
    return bool(model_class._can_set_attn_implementation())


def supports_sdpa(model_class: type["PreTrainedModel"]) -> bool:
    """Tell whether the family can attend by F.scaled_dot_product_attention."""
    return bool(model_class._supports_sdpa)


def decoder_layer_classes(model: "PreTrainedModel") -> set[str]:
    """Return the class names of the model's layers; empty where the family does not name them."""
    return set(model._no_split_modules or ())


@functools.cache
def trainer_takes_sharded_models() -> bool:
    """Tell whether the Trainer leaves a model alone that others have sharded (5.23 and newer)."""
    from transformers import Trainer

    return hasattr(Trainer, "_sync_replicated_trainable_parameters")


def checkpointing_prefix() -> str:
    """Return how TrainingArguments calls checkpointing: `activation` since 5.23, or `gradient`.

    The new version warns of the old name; until 5.23 is the oldest supported version.
    """
    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    return "activation" if "activation_checkpointing" in names else "gradient"


@functools.cache
def checkpoints_around_forward() -> bool:
    """Tell whether transformers recomputes a layer around its forward (before 5.23) or inside."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return "__call__" in vars(GradientCheckpointingLayer)


def forget_longer_inputs(model: "nn.Module") -> None:
    """Put back the rotary frequencies that have grown with the longest input so far (dynamic).

    transformers does so for an input that is shorter than the original context alone: any other one
    is read with the frequencies of the longest one before it, whatever that was.
    """
    for module in model.modules():
        own: Any = module
        original = getattr(own, "original_max_seq_len", None)
        names = [*vars(own), *dict(own.named_buffers(recurse=False))] if original else []
        for name in [name for name in names if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")  # a kind of layers, with several
            longest = f"{prefix}max_seq_len_cached"
            if getattr(own, longest, own.max_seq_len_cached) <= original:
                continue
            now = getattr(own, f"{prefix}inv_freq")
            before = getattr(own, name).to(now.device)
            own.register_buffer(f"{prefix}inv_freq", before.clone(), persistent=False)
            setattr(own, longest, original)


def recomputation(layer: "nn.Module") -> Any:
    """Return the function by which a decoder layer is recomputed in backward; None without one."""
    return getattr(layer, "_gradient_checkpointing_func", None)


def set_recomputation(layer: Any, function: Any) -> None:
    """Replace the function by which a decoder layer is recomputed in backward."""
    layer._gradient_checkpointing_func = function


def attention_of(config: "PretrainedConfig") -> str | None:
    """Return the name of the attention that a loaded model of this configuration runs with."""
    name: str | None = config._attn_implementation
    return name


@contextmanager
def packing_is_told_to_masks() -> Iterator[None]:
    """Keep transformers from looking for packed documents when it makes masks.

    It asks the device for them, once for each mask. For models all of whose masks are made by who
    knows the documents.
    """
    from transformers import masking_utils

    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


@contextmanager
def no_ddp_buckets_in_graphs() -> Iterator[None]:
    """Compile layers whole: torch would cut graphs at DDP's buckets; put back what was set."""
    import torch

    before = torch._dynamo.config.optimize_ddp
    torch._dynamo.config.optimize_ddp = False
    try:
        yield
    finally:
        torch._dynamo.config.optimize_ddp = before


def storage_key(tensor: Any) -> int:
    """Return what two tensors have in common if they share memory, also where there is none."""
    return int(tensor.untyped_storage()._cdata)


def read_documents_by_restarts() -> None:
    """Have transformers begin a packed document where positions are 0, and not where they jump.

    For the whole process, and the same wherever positions are those of packed documents; rows whose
    positions skip some (data.position_skipping=pose) fall apart otherwise.
    """
    from transformers import masking_utils

    masking_utils.find_packed_sequence_indices = _documents_by_restarts


def _documents_by_restarts(position_ids: "torch.Tensor") -> "torch.Tensor | None":
    documents = (position_ids == 0).cumsum(-1)
    return None if bool((documents == documents[:, :1]).all()) else documents


def grouped_product() -> Any:
    """Return the function that multiplies rows by the matrices of their experts."""
    import torch

    return torch._grouped_mm


def experts_follow_autocast() -> None:
    """Have transformers multiply stacked experts in autocast's dtype, as all other matrices are.

    For the whole process; without autocast nothing changes. PyTorch's kernel does not know
    autocast, and weights in float32 would be multiplied in float32.
    """
    import torch
    from transformers.integrations import moe

    own: Any = moe._grouped_mm
    if hasattr(own, "__wrapped__"):
        return

    @functools.wraps(own)
    def in_autocast(input: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
        kind = weight.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            input, weight = input.to(dtype), weight.to(dtype)
        found: torch.Tensor = own(input, weight, offs=offs)
        return found

    moe._grouped_mm = in_autocast


def rename_targets(lora: "LoraConfig", model: "PreTrainedModel") -> None:
    """Rename what PEFT takes for a mixture's experts, as it will when it puts the adapter.

    PEFT before 0.19 takes nothing for experts. Raises ValueError as PEFT does.
    """
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:
        return
    convert_peft_config_for_transformers(lora, model, None)
