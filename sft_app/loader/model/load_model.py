"""Load a causal LM whose positions are what the RopePlan says."""

import copy
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.common import ranks
from sft_app.common.errors import ConfigError
from sft_app.compat import loading_and_saving
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.architecture.auto_class import auto_class
from sft_app.loader.architecture.skeleton import freeze_towers
from sft_app.loader.checkpoint.decoded_headers import is_of_activations
from sft_app.loader.checkpoint.load_report import check_loaded
from sft_app.loader.checkpoint.locate import find_checkpoint
from sft_app.loader.checkpoint.pickled_headers import no_safetensors
from sft_app.loader.checkpoint.quantized_source import decode_when_loaded, quantization_of
from sft_app.loader.checkpoint.stored_weights import StoredWeights, mark_stored
from sft_app.loader.checkpoint.tied_weights import check_tied
from sft_app.loader.model.broadcast import receive_weights, send_weights
from sft_app.loader.model.dtype import choose_dtype
from sft_app.loader.model.finite import count_nonfinite
from sft_app.loader.model.generation import make_saveable
from sft_app.loader.model.pad_row import restore_pad_row
from sft_app.loader.model.tensor_parallel import disown_tensor_parallel, tensor_parallel_arguments
from sft_app.loader.model.unread_model import build_unread, whole_names
from sft_app.loader.rope.interpolate_table import interpolated_table
from sft_app.loader.rope.rope_plan import RopePlan, planned_config
from sft_app.loader.rope.verify_rope import check_built

logger = logging.getLogger(__name__)


def load_model(
    model_config: ModelConfig,
    hf_config: PretrainedConfig,
    plan: RopePlan,
    *,
    device: torch.device | str = "cpu",
    attention: str | None = None,
    frozen: bool = False,
    on_host_of_rank_0: bool = False,
    tensor_parallel_size: int = 1,
    float32_names: Sequence[str] = (),
    stored: StoredWeights | None = None,
    with_embeddings: bool = False,
) -> PreTrainedModel:
    """Build the model with the plan's positions, load its weights, and check what was built.

    `hf_config` is copied, not changed. The key-value cache is off: in training it costs memory and
    breaks packing. `attention`: the implementation to load with; None: transformers' own default.
    `frozen`: only an adapter will be trained. `float32_names`: parameters that are loaded in
    float32 although the others have fewer bits.

    In a process group rank 0 reads the weights and broadcasts them; with `tensor_parallel_size`
    each rank reads its own shard of each matrix; with `on_host_of_rank_0` rank 0 keeps them in the
    host's memory, the others have parameters on the meta device, and whoever shards or quantises
    the model scatters or broadcasts them. With `stored` as well nobody reads them here: parameters
    on all ranks say where they are stored, and whoever shards the model lets each rank read its
    own rows; `with_embeddings`: rank 0 reads the embedding and the head, which will be changed.

    Raises ConfigError when the weights cannot be had as asked (pickled only, not there).
    """
    device = torch.device(device)
    hf_config = copy.deepcopy(hf_config)
    decode_when_loaded(hf_config)
    for holder in (hf_config, hf_config.get_text_config(decoder=True)):
        holder.use_cache = False
    dtype = choose_dtype(model_config, device, frozen=frozen)
    arguments: dict[str, Any] = {
        "dtype": dtype.value,
        "trust_remote_code": model_config.trust_remote_code,
    }
    if attention is not None:
        arguments["attn_implementation"] = attention

    alone = not _shares_loading()
    if tensor_parallel_size > 1:
        in_shards = arguments | tensor_parallel_arguments(tensor_parallel_size)
        with loading_and_saving.keep_in_float32(float32_names):
            built = _read(model_config, hf_config, plan, in_shards)
        disown_tensor_parallel(built)
    elif alone or ranks.is_main():
        with loading_and_saving.keep_in_float32(float32_names):
            if stored is None:
                built = _read(model_config, hf_config, plan, arguments)
            else:
                built = build_unread(
                    find_checkpoint(model_config),
                    planned_config(hf_config, plan),
                    stored,
                    arguments,
                    model_config.name_or_path,
                    with_embeddings=with_embeddings,
                )
        if not on_host_of_rank_0:
            built = built.to(device)
            if not alone:
                send_weights(built)
    else:
        hf_config = planned_config(hf_config, plan)
        # Parameters without memory; buffers are real, so that inverse frequencies are computed.
        with init_empty_weights(include_buffers=False):
            built = auto_class(hf_config).from_config(
                loading_and_saving.without_quantization(hf_config), **arguments
            )
        built.tie_weights()  # on the meta device every assignment made a parameter of its own
        if stored is not None:
            mark_stored(built, stored, whole_names(built, with_embeddings=with_embeddings))
        if not on_host_of_rank_0:
            receive_weights(built, device)
        built.eval()

    if hasattr(built.config, "transformers_weights"):  # it names a file of the source alone
        del built.config.transformers_weights
    make_saveable(built)
    freeze_towers(built)
    check_built(built, plan.rotary_dims)
    logger.info(
        "parameters      %.1fM in %s (%s)",
        sum(p.numel() for p in built.parameters()) / 1e6,
        str(dtype.value).removeprefix("torch."),
        dtype.reason,
    )
    return built


@torch.no_grad()
def check_finite(model: PreTrainedModel, name: str) -> None:
    """Raise ConfigError for a weight that is NaN or infinite: it would look like a later fault."""
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        broken = count_nonfinite(own)
        if broken:
            raise ConfigError(
                f"model.name_or_path: {key!r} of {name!r} has {broken:,} numbers of "
                f"{tensor.numel():,} that are NaN or infinite; copy the checkpoint again, or take "
                "an earlier one."
            )


def _shares_loading() -> bool:
    """Tell whether one rank reads for the others; FSDP has a way of its own in transformers."""
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    return not fsdp and ranks.is_distributed()


def _read(
    model_config: ModelConfig,
    hf_config: PretrainedConfig,
    plan: RopePlan,
    arguments: dict[str, Any],
) -> PreTrainedModel:
    if plan.method != "extend_positions":
        return _from_pretrained(model_config, planned_config(hf_config, plan), arguments)
    short = _from_pretrained(model_config, copy.deepcopy(hf_config), arguments)
    weights = short.state_dict()
    name = f"{plan.table}.weight"
    weights[name] = interpolated_table(weights[name], plan.context_length, plan.table_offset)
    hf_config = planned_config(hf_config, plan)
    long = type(short).from_pretrained(None, config=hf_config, state_dict=weights, **arguments)
    long.generation_config = short.generation_config
    return long


def _from_pretrained(
    model_config: ModelConfig, hf_config: PretrainedConfig, arguments: dict[str, Any]
) -> PreTrainedModel:
    checkpoint = find_checkpoint(model_config)
    safe = {} if model_config.allow_pickle else {"use_safetensors": True}
    try:
        with loading_and_saving.conversions_kept():
            built, info = auto_class(hf_config).from_pretrained(
                checkpoint.location,
                config=hf_config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, as all that does not fit
                **checkpoint.arguments(),
                **safe,
                **arguments,
            )
    except OSError as error:
        text = " ".join(str(error).split())
        if "safetensors" in text:
            raise no_safetensors(model_config.name_or_path) from error
        raise ConfigError(
            f"model.name_or_path: the weights of {model_config.name_or_path!r} cannot be read "
            f"({text})."
        ) from error
    except RuntimeError as error:
        if "conversion" not in str(error):
            raise
        raise ConfigError(
            f"model.name_or_path: the weights of {model_config.name_or_path!r} cannot be put "
            f"together ({' '.join(str(error).split())[:200]}); copy the whole checkpoint again."
        ) from error
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"model.attn_implementation or model.dtype: {model_config.name_or_path!r} cannot be "
            f"built as asked ({' '.join(str(error).split())}); try model.attn_implementation=eager."
        ) from error
    if quantization_of(hf_config) is not None:
        loading_and_saving.forget_quantization(built)
        unexpected = {key for key in info["unexpected_keys"] if not is_of_activations(key)}
        info = {**info, "unexpected_keys": unexpected}
    check_loaded(info, model_config.name_or_path)
    check_tied(built, model_config.name_or_path)
    restore_pad_row(built, checkpoint, allow_pickle=model_config.allow_pickle)
    check_finite(built, model_config.name_or_path)
    return built
