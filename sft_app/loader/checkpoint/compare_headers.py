"""A checkpoint's tensors against its architecture, by transformers' own loader, without memory."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sft_app.common.errors import ConfigError
from sft_app.compat import loading_and_saving
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.loader.checkpoint.load_report import check_loaded, first_hole
from sft_app.loader.checkpoint.stacked_tensors import Stack, find_stacks
from sft_app.loader.checkpoint.stored_tensor import FLOATING, TORCH_DTYPES, Headers

ROTARY_BUFFERS = "rotary_emb.inv_freq"
"""Frequencies that old checkpoints of Llama's days hold, one tensor a layer."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How the names in the files and those in the model belong together."""

    ignored: set[str]
    """Names in the files of what the architecture leaves out by design."""
    renamed: dict[str, str]
    """The model's own name of each tensor."""
    twice: list[tuple[str, str]]
    """Two names in the files of what the architecture has once: a tied head and its embedding."""
    stacks: dict[str, Stack] | str
    """The model's own name of each tensor that is stacked from several of the files; or what else
    is done to tensors than to stack them, or to give them another name."""
    own_code: bool
    """Whether code that the checkpoint carries builds the model."""


def compare_headers(hf_config: PretrainedConfig, headers: Headers, name: str) -> Compared:
    """Let transformers load the headers. Raises ConfigError for everything that does not fit."""
    unknown = sorted({h.dtype for h in headers.values()} - set(TORCH_DTYPES))
    if unknown:
        raise ConfigError(
            f"model.name_or_path: {name!r} has weights in {', '.join(unknown)}, which cannot be "
            "trained; give the model in bfloat16 or float32."
        )
    built_as = type(build_skeleton(hf_config))
    try:
        with loading_and_saving.noting_conversions() as conversions:
            model, info = load_headers(built_as, hf_config, headers)
    except ConfigError:
        raise
    except Exception as error:
        hole = first_hole(headers)
        what = f"it lacks {hole}" if hole else " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"model.name_or_path: the weights of {name!r} do not make the {hf_config.model_type} "
            f"model of its config.json ({what[:300]}); copy the whole checkpoint again."
        ) from error
    check_loaded(info, name, headers)
    renamed = loading_and_saving.names_in_model(model, headers)
    known = model.state_dict()
    for stored, header in headers.items():
        built = known.get(renamed[stored])
        if built is not None and built.is_floating_point() and header.dtype not in FLOATING:
            raise ConfigError(
                f"model.name_or_path: {stored!r} of {name!r} is stored in {header.dtype}, and its "
                "config.json does not say how that is decoded; give the unquantised model, or the "
                "config.json with the quantization_config that belongs to these weights."
            )
    names = {renamed[stored]: stored for stored in headers}
    suspects = {stored for stored in headers if renamed[stored] not in known}
    return Compared(
        ignored=_left_out(built_as, hf_config, headers, suspects),
        renamed=renamed,
        twice=[
            (names[target], names[source])
            for target, source in model.all_tied_weights_keys.items()
            if target in names and source in names
        ],
        stacks=find_stacks(model, conversions, headers),
        own_code=built_as.is_remote_code(),
    )


def _left_out(
    built_as: type[PreTrainedModel],
    hf_config: PretrainedConfig,
    headers: Headers,
    suspects: set[str],
) -> set[str]:
    """Return which of the `suspects` nothing is missing without.

    Their names in the model are not known, for transformers may put several together.
    """

    def needed(group: set[str]) -> bool:
        rest = {name: header for name, header in headers.items() if name not in group}
        try:
            _, info = load_headers(built_as, hf_config, rest)
        except Exception:  # a part of a weight that is put together from several
            return True
        return bool(info["missing_keys"] or info["mismatched_keys"])

    if not suspects or not needed(suspects):
        return suspects
    groups = [{n for n in suspects if n.startswith(prefix)} for prefix in grouped(suspects)]
    return set().union(*(group for group in groups if not needed(group)))


def load_headers(
    built_as: type[PreTrainedModel],
    hf_config: PretrainedConfig,
    headers: Headers,
    **arguments: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Run transformers' loader on tensors without memory; return the model and the report.

    `arguments` are further ones of `from_pretrained`.
    """
    state = {
        name: torch.empty(header.shape, dtype=TORCH_DTYPES[header.dtype], device="meta")
        for name, header in headers.items()
    }
    level, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        model, info = built_as.from_pretrained(
            None,
            config=loading_and_saving.without_quantization(hf_config),
            state_dict=state,
            output_loading_info=True,
            device_map="meta",
            ignore_mismatched_sizes=True,
            **arguments,
        )
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()
    return model, info


def grouped(names: Iterable[str]) -> dict[str, int]:
    """Count by the name up to the first number: model.layers.61., mtp., model.visual."""
    groups: Counter[str] = Counter()
    for name in names:
        if name.endswith(ROTARY_BUFFERS):
            groups[ROTARY_BUFFERS] += 1
            continue
        found = re.match(r"(model\.layers\.\d+\.|(?:model\.)?[A-Za-z_]+\.)", name)
        groups[found.group(1) if found else name] += 1
    return dict(sorted(groups.items()))
