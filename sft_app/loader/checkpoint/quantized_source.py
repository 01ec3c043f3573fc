"""Checkpoints that are stored quantised: which can be trained as plain weights, and which cannot.

Training needs plain matrices. Formats that transformers decodes exactly while it loads (FP8 blocks,
MXFP4, compressed-tensors) are decoded; those that were rounded for inference only (bitsandbytes,
GPTQ, AWQ and others) are refused, because their unquantised originals exist and are better.
"""

import re
from typing import Any

import torch
from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.loader.checkpoint.tensor_headers import Headers, TensorHeader

_DECODED = {"fp8": None, "mxfp4": None, "compressed-tensors": "compressed_tensors"}
"""Format -> the package that decoding needs, None: transformers itself."""

_COMPANION = re.compile(r"(weight_scale(_inv)?|activation_scale|input_scale|_scales)$")


def quantization_of(hf_config: PretrainedConfig) -> dict[str, Any] | None:
    """Return the quantisation that config.json states; None for plain weights."""
    stated = getattr(hf_config, "quantization_config", None)
    if stated is None:
        return None
    return dict(stated) if isinstance(stated, dict) else dict(stated.to_dict())


def quantization_method(stated: dict[str, Any]) -> str:
    """Return the name of the format, as transformers calls it."""
    for bits in ("4bit", "8bit"):
        if stated.get(f"load_in_{bits}"):
            return f"bitsandbytes {bits}"
    return str(stated.get("quant_method", "unknown"))


def plan_quantized_source(hf_config: PretrainedConfig, name: str) -> str | None:
    """Say what a quantised checkpoint gets; None for a plain one.

    Raises ConfigError for formats that cannot be trained.
    """
    stated = quantization_of(hf_config)
    if stated is None:
        return None
    method = quantization_method(stated)
    if method not in _DECODED:
        raise ConfigError(
            f"model.name_or_path: {name!r} is quantised ({method}), which cannot be trained; give "
            "the unquantised model it was made from (adapter=qlora keeps that in 4 bits meanwhile)."
        )
    package = _DECODED[method]
    if package is not None and not is_installed(package):
        raise ConfigError(
            f"model.name_or_path: {name!r} is quantised ({method}), and decoding it needs a "
            f"package that is not installed; pip install {package.replace('_', '-')}, or give the "
            "unquantised model."
        )
    return f"{method} in the checkpoint, decoded to plain weights when loaded, saved unquantised"


def decode_when_loaded(hf_config: PretrainedConfig) -> None:
    """Make `from_pretrained` give plain weights, on hardware that could use the others too."""
    stated = quantization_of(hf_config)
    if stated is not None:
        hf_config.quantization_config = {**stated, "dequantize": True}


def decoded_headers(headers: Headers) -> Headers:
    """Return the headers as the plain checkpoint would have them: scales gone, blocks unpacked."""
    plain: Headers = {}
    for name, header in headers.items():
        if _COMPANION.search(name):
            continue
        if name.endswith("_blocks"):  # MXFP4: (experts, rows, groups, 16 bytes of two numbers)
            experts, rows, groups, packed = header.shape
            shape = (experts, groups * packed * 2, rows)
            plain[name.removesuffix("_blocks")] = TensorHeader("BF16", shape, header.file)
        elif header.dtype.startswith("F8"):
            plain[name] = TensorHeader("BF16", header.shape, header.file)
        else:
            plain[name] = header
    return plain


TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Names of safetensors."""
