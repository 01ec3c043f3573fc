"""Whether a checkpoint's weights are those of its architecture, found out without reading them.

transformers fills what a checkpoint lacks with random numbers and drops what it does not know, with
a warning at most. Here its own loader is run on tensors without memory (meta device) that have the
names, shapes and dtypes of the files' headers, and what it says is taken for an error.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sft_app import compat
from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.architecture.auto_class import is_multimodal, model_class
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.loader.checkpoint.locate import Checkpoint, find_checkpoint
from sft_app.loader.checkpoint.quantized_source import (
    TORCH_DTYPES,
    decoded_headers,
    plan_quantized_source,
    quantization_of,
)
from sft_app.loader.checkpoint.tensor_headers import Headers, NoHeaders, read_headers

_SHOWN = 3
"""Names in a message; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class WeightsPlan:
    """What a checkpoint's files hold. Print it, or put `as_dict()` into plan.json."""

    checkpoint: Checkpoint
    num_tensors: int | None
    """None: not known before the weights are read."""
    unread_reason: str | None = None
    """Why it is not known."""
    quantized: str | None = None
    """What a quantised checkpoint gets; None: it is plain."""
    dtype: torch.dtype | None = None
    """That most of the numbers have; what is saved has it, too."""
    tensor_dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    """Of tensors that have another one (float32 router biases), by their name in the model."""
    towers: str | None = None
    """The class that holds the towers of a multimodal checkpoint, which are kept as they are."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Tensors that the architecture leaves out by design, by the first parts of their names."""

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        names = {name: _name(dtype) for name, dtype in self.tensor_dtypes.items()}
        dtype = _name(self.dtype) if self.dtype else None
        plain = {key: value for key, value in asdict(self).items() if key != "checkpoint"}
        return {**plain, "dtype": dtype, "tensor_dtypes": names}

    def __str__(self) -> str:
        """Return the lines that sft-plan and the log show."""
        if self.num_tensors is None:
            what = f"checked when they are read ({self.unread_reason})"
        else:
            what = f"{self.num_tensors:,} tensors, all of the architecture's and no others"
            if self.dtype:
                what += f"; {_name(self.dtype)}"
            if self.tensor_dtypes:
                others = ", ".join(sorted({_name(d) for d in self.tensor_dtypes.values()}))
                what += f", {len(self.tensor_dtypes):,} of them {others}: saved as they came"
        lines = [("weights", what)]
        if self.quantized:
            lines.append(("quantised", self.quantized))
        if self.towers:
            lines.append(
                ("towers", f"{self.towers}: text alone is trained, the rest is saved untouched")
            )
        for prefix, count in self.dropped.items():
            lines.append(
                ("NOT CARRIED", f"{count:,} tensors of {prefix}*, which transformers does not load")
            )
        return "\n".join(f"{name:<16}{value}" for name, value in lines)


def plan_weights(model_config: ModelConfig, hf_config: PretrainedConfig) -> WeightsPlan:
    """Compare the checkpoint's files with the architecture of `hf_config`.

    Raises ConfigError for weights that are missing, unknown, of another shape, or that cannot be
    trained in the format in which they are stored.
    """
    name = model_config.name_or_path
    quantized = plan_quantized_source(hf_config, name)
    checkpoint = find_checkpoint(model_config)
    headers = read_headers(checkpoint)
    towers = None
    if is_multimodal(hf_config):
        built_as = model_class(hf_config)
        towers = built_as.__name__ if built_as else None
    if isinstance(headers, NoHeaders):
        return WeightsPlan(
            checkpoint=checkpoint,
            num_tensors=None,
            unread_reason=headers.reason,
            quantized=quantized,
            towers=towers,
        )
    if quantization_of(hf_config) is not None:
        headers = decoded_headers(headers)
    ignored, renamed = _compare(hf_config, headers, name)
    dtype = _most_common_dtype(headers)
    others = {
        renamed[n]: TORCH_DTYPES[h.dtype]
        for n, h in headers.items()
        if TORCH_DTYPES.get(h.dtype, dtype) != dtype and n not in ignored
    }
    return WeightsPlan(
        checkpoint=checkpoint,
        num_tensors=len(headers) - len(ignored),
        quantized=quantized,
        dtype=dtype,
        tensor_dtypes=others,
        towers=towers,
        dropped=_grouped(ignored),
    )


def _compare(
    hf_config: PretrainedConfig, headers: Headers, name: str
) -> tuple[set[str], dict[str, str]]:
    """Let transformers load the headers.

    Returns the names that it leaves out by design, and the model's own name of each tensor.

    Raises ConfigError for everything else that does not fit.
    """
    unknown = sorted({h.dtype for h in headers.values()} - set(TORCH_DTYPES))
    if unknown:
        raise ConfigError(
            f"model.name_or_path: {name!r} has weights in {', '.join(unknown)}, which cannot be "
            "trained; give the model in bfloat16 or float32."
        )
    built_as = type(build_skeleton(hf_config))
    try:
        model, info = _load_headers(built_as, hf_config, headers)
    except ConfigError:
        raise
    except Exception as error:
        hole = _first_hole(headers)
        what = f"it lacks {hole}" if hole else " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"model.name_or_path: the weights of {name!r} do not make the {hf_config.model_type} "
            f"model of its config.json ({what[:300]}); copy the whole checkpoint again."
        ) from error
    check_loaded(info, name)
    renamed = compat.names_in_model(model, headers)
    known = set(model.state_dict())
    suspects = [
        n for n in headers if compat.ignored_when_loading(built_as, n) and renamed[n] not in known
    ]
    dropped: set[str] = set()
    # Families name what they leave out by patterns, which may fit weights that they need, too.
    for prefix in _grouped(suspects):
        group = {n for n in suspects if n.startswith(prefix)}
        rest = {n: h for n, h in headers.items() if n not in group}
        try:
            _, info = _load_headers(built_as, hf_config, rest)
        except Exception:  # a part of a weight that is put together from several
            continue
        if not info["missing_keys"]:
            dropped |= group
    return dropped, renamed


def _load_headers(
    built_as: type[PreTrainedModel], hf_config: PretrainedConfig, headers: Headers
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Run transformers' loader on tensors without memory; return the model and the report."""
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
            config=compat.without_quantization(hf_config),
            state_dict=state,
            output_loading_info=True,
            device_map="meta",
            ignore_mismatched_sizes=True,
        )
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()
    return model, info


def _first_hole(headers: Headers) -> str | None:
    """Return the first weight that is missing in a numbered series, such as a layer's experts."""
    series: dict[tuple[str, str], set[int]] = {}
    for name in headers:
        found = re.match(r"(.*\.)(\d+)((?:\.[^.]*[^.\d][^.]*)*)$", name)
        if found:
            series.setdefault((found.group(1), found.group(3)), set()).add(int(found.group(2)))
    longest: dict[str, int] = {}
    for (before, _), numbers in series.items():
        longest[before] = max(longest.get(before, 0), max(numbers))
    for (before, after), numbers in sorted(series.items()):
        for number in range(longest[before] + 1):
            if number not in numbers:
                return f"{before}{number}{after}"
    return None


def check_loaded(info: dict[str, Any], name: str) -> None:
    """Raise ConfigError for anything in transformers' loading report.

    `info` is what `output_loading_info` gives: missing, unexpected and mismatched keys.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(tuple(entry) for entry in info["mismatched_keys"])
    errors = [" ".join(str(e).split()) for e in info.get("error_msgs") or ()]
    if mismatched:
        key, stored, built = mismatched[0]
        raise ConfigError(
            f"model.name_or_path: {key!r} of {name!r} has the shape {tuple(stored)}, and its "
            f"config.json means {tuple(built)} ({len(mismatched)} tensors differ so); give the "
            "config.json that belongs to these weights."
        )
    if missing or unexpected or errors:
        raise ConfigError(_sentence(missing, unexpected, errors, name))


def _sentence(missing: list[str], unexpected: list[str], errors: list[str], name: str) -> str:
    prefix = _foreign_prefix(missing, unexpected)
    if prefix:
        cause = (
            f"all names begin with {prefix!r}, which a wrapper in training (DDP, torch.compile, "
            "PEFT) put there: save the model inside the wrapper, or rename the tensors"
        )
    elif missing and not unexpected:
        cause = "they would be random numbers: copy the whole checkpoint again"
    elif unexpected and not missing:
        cause = (
            "they would be lost: the config.json is another model's (fewer layers, tied "
            "embeddings?), or these are an adapter's, to be merged first"
        )
    else:
        cause = "config.json and weights belong to different models"
    found = []
    if missing:
        found.append(f"lacks {_listed(missing)}")
    if unexpected:
        found.append(f"has {_listed(unexpected)}, which the architecture does not know")
    if errors:
        found.append(errors[0][:200])
    return f"model.name_or_path: {name!r} {' and '.join(found)}; {cause}."


def _foreign_prefix(missing: list[str], unexpected: list[str]) -> str | None:
    """Return what stands before every unexpected name, if the rest of it is what is missing."""
    wanted = set(missing)
    for known in ("module.", "_orig_mod.", "base_model.model.", "model.", "_fsdp_wrapped_module."):
        rest = [name.removeprefix(known) for name in unexpected if name.startswith(known)]
        if rest and len(rest) == len(unexpected) and any(name in wanted for name in rest):
            return known
    return None


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _most_common_dtype(headers: Headers) -> torch.dtype | None:
    counts: Counter[str] = Counter()
    for header in headers.values():
        counts[header.dtype] += header.num_elements
    floating = [d for d, _ in counts.most_common() if d in ("F64", "F32", "F16", "BF16")]
    return TORCH_DTYPES[floating[0]] if floating else None


def _grouped(names: Iterable[str]) -> dict[str, int]:
    """Count by the name up to the first number: model.layers.61., mtp., model.visual."""
    groups: Counter[str] = Counter()
    for name in names:
        found = re.match(r"(model\.layers\.\d+\.|(?:model\.)?[A-Za-z_]+\.)", name)
        groups[found.group(1) if found else name] += 1
    return dict(sorted(groups.items()))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
