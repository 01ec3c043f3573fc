"""Whether a checkpoint's weights are those of its architecture, found out without reading them.

transformers fills what a checkpoint lacks with random numbers and drops what it does not know, with
a warning at most. Here its own loader is run on tensors without memory (meta device) that have the
names, shapes and dtypes of the files' headers, and what it says is taken for an error.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from transformers import PretrainedConfig

from sft_app.config.schema.model import ModelConfig
from sft_app.loader.architecture.auto_class import is_multimodal, model_class
from sft_app.loader.checkpoint.compare_headers import ROTARY_BUFFERS, compare_headers, grouped
from sft_app.loader.checkpoint.decoded_headers import decode_headers
from sft_app.loader.checkpoint.load_report import PEFT_CONFIG, check_no_adapter_beside
from sft_app.loader.checkpoint.locate import Checkpoint, find_checkpoint
from sft_app.loader.checkpoint.quantized_source import (
    check_stated,
    plan_quantized_source,
    quantization_method,
    quantization_of,
)
from sft_app.loader.checkpoint.stored_tensor import TORCH_DTYPES, Headers, NoHeaders
from sft_app.loader.checkpoint.stored_weights import StoredWeights, find_stored_weights
from sft_app.loader.checkpoint.tensor_headers import read_headers
from sft_app.loader.checkpoint.tied_weights import check_ties


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
    stored: StoredWeights | str
    """Where they can be read in slices, or why they are read whole."""

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        names = {name: _name(dtype) for name, dtype in self.tensor_dtypes.items()}
        dtype = _name(self.dtype) if self.dtype else None
        here = ("checkpoint", "stored")  # on this machine
        plain = {key: value for key, value in asdict(self).items() if key not in here}
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
            if self.checkpoint.weights_file:
                what += f"; from {self.checkpoint.weights_file}, which config.json names"
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
                if prefix != ROTARY_BUFFERS
                else ("weights", f"{count:,} tensors of {prefix}: computed from config.json anew")
            )
        return "\n".join(f"{name:<16}{value}" for name, value in lines)


def plan_weights(model_config: ModelConfig, hf_config: PretrainedConfig) -> WeightsPlan:
    """Compare the checkpoint's files with the architecture of `hf_config`.

    Raises ConfigError for weights that are missing, unknown, of another shape, or that cannot be
    trained in the format in which they are stored.
    """
    name = model_config.name_or_path
    quantized = plan_quantized_source(hf_config, name)
    named = getattr(hf_config, "transformers_weights", None)
    checkpoint = replace(find_checkpoint(model_config), weights_file=named)
    headers = read_headers(checkpoint, allow_pickle=model_config.allow_pickle)
    check_no_adapter_beside(checkpoint.file(PEFT_CONFIG), f"model.name_or_path: {name!r}")
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
            stored="its headers are not known before it is read",
        )
    stated = quantization_of(hf_config)
    if stated is not None:
        decoded = decode_headers(headers, stated, name)
        headers = decoded.headers
        if not decoded.num_decoded:
            quantized = f"config.json says {quantization_method(stated)}, but the weights are plain"
    else:
        check_stated(hf_config, checkpoint, headers, name)
    compared = compare_headers(hf_config, headers, name)
    ignored, renamed = compared.ignored, compared.renamed
    check_ties(checkpoint, headers, compared.twice, name)
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
        dropped=grouped(ignored),
        stored="its weights are decoded when they are loaded"
        if stated is not None
        else find_stored_weights(checkpoint, headers, compared),
    )


def _most_common_dtype(headers: Headers) -> torch.dtype | None:
    counts: Counter[str] = Counter()
    for header in headers.values():
        counts[header.dtype] += header.num_elements
    floating = [d for d, _ in counts.most_common() if d in ("F64", "F32", "F16", "BF16")]
    return TORCH_DTYPES[floating[0]] if floating else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
