"""Checkpoints that are stored quantised: which can be trained as plain weights, and which cannot.

Training needs plain matrices. Formats that transformers decodes exactly while it loads (FP8 blocks,
MXFP4, compressed-tensors) are decoded; those that were rounded for inference only (bitsandbytes,
GPTQ, AWQ and others) are refused, because their unquantised originals exist and are better.
"""

import re
from typing import Any

from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.checkpoint.stored_tensor import FLOATING, Headers

_DECODED = {"fp8": None, "mxfp4": None, "compressed-tensors": "compressed_tensors"}
"""Format -> the package that decoding needs, None: transformers itself."""

_DECODED_COMPRESSED = ("float-quantized", "naive-quantized", "int-quantized", "pack-quantized")
"""Formats of compressed-tensors of whose decoded weights the shapes are known."""

_KEYS = ("quantization_config", "compression_config", "quantization")
"""Where a config.json states it; the second is of older compressed-tensors, the third of MLX."""

_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Where others state it: ModelOpt, older GPTQ, older AWQ."""

_PARTS = re.compile(
    r"\.(qweight|qzeros|W_q|SCB|codebooks|weight_packed|weight_scale(_inv|_2)?|input_scale|scales|"
    r"weight\.(absmax|quant_map|quant_state\..*)|(weight\.)?_data|(weight\.)?_scale)$"
)
"""Names that quantisers give to parts of a weight."""


def state_quantization(hf_config: PretrainedConfig) -> None:
    """Put a quantisation that stands elsewhere in config.json where all of this looks for it."""
    if getattr(hf_config, "quantization_config", None) is not None:
        return
    text = hf_config.get_text_config(decoder=True)
    for holder in (hf_config, text):
        for key in _KEYS:
            stated = getattr(holder, key, None)
            if isinstance(stated, dict) and stated:
                hf_config.quantization_config = stated
                if holder is text and text is not hf_config:
                    delattr(text, key)
                return


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
    method = str(stated.get("quant_method") or "")
    if method == "modelopt" and stated.get("quant_algo"):
        return f"modelopt {stated['quant_algo']}"
    if method:
        return method
    if "w_bit" in stated:
        return "awq"
    return "MLX" if {"bits", "group_size"} <= stated.keys() else "in an unnamed format"


def plan_quantized_source(hf_config: PretrainedConfig, name: str) -> str | None:
    """Say what a quantised checkpoint gets; None for a plain one.

    Raises ConfigError for formats that cannot be trained.
    """
    stated = quantization_of(hf_config)
    if stated is None:
        return None
    method = quantization_method(stated)
    if method not in _DECODED:
        raise _refusal(name, method)
    package = _DECODED[method]
    if package is not None and not is_installed(package):
        raise ConfigError(
            f"model.name_or_path: {name!r} is quantised ({method}), and decoding it needs a "
            f"package that is not installed; pip install {package.replace('_', '-')}, or give the "
            "unquantised model."
        )
    layout = str(stated.get("format", "float-quantized"))
    if method == "compressed-tensors" and layout not in _DECODED_COMPRESSED:
        raise _refusal(name, f"{method} {layout}")
    return f"{method} in the checkpoint, decoded to plain weights when loaded, saved unquantised"


def check_stated(
    hf_config: PretrainedConfig, checkpoint: Checkpoint, headers: Headers, name: str
) -> None:
    """Raise ConfigError for parts of quantised weights below a config.json that names no format."""
    if quantization_of(hf_config) is not None:
        return
    coded = [n for n, header in headers.items() if header.dtype not in (*FLOATING, "BOOL")]
    parts = [n for n in headers if _PARTS.search(n)]
    if not coded or not parts:
        return
    file = next((f for f in _FILES if checkpoint.file(f) is not None), None)
    stated = f"{file} says how, " if file else ""
    raise ConfigError(
        f"model.name_or_path: {name!r} is quantised ({parts[0]}, and {len(parts) - 1:,} more such "
        f"parts of weights; {stated}its config.json does not say how), which cannot be trained; "
        "give the unquantised model that it was made from."
    )


def _refusal(name: str, method: str) -> ConfigError:
    return ConfigError(
        f"model.name_or_path: {name!r} is quantised ({method}), which cannot be trained; give the "
        "unquantised model it was made from (adapter=qlora keeps that in 4 bits meanwhile)."
    )


def decode_when_loaded(hf_config: PretrainedConfig) -> None:
    """Make `from_pretrained` give plain weights, on hardware that could use the others too."""
    stated = quantization_of(hf_config)
    if stated is not None:
        hf_config.quantization_config = {**stated, "dequantize": True}
