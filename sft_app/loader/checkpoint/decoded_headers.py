"""What a quantised checkpoint's tensors are once they are decoded, from its headers alone.

Whatever transformers would decode wrongly, or stop at after minutes of loading, is refused here.
"""

from dataclasses import dataclass
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.loader.checkpoint.quantized_source import quantization_method
from sft_app.loader.checkpoint.stored_tensor import Headers, TensorHeader

_COMPRESSED_PARTS = ("_scale", "_zero_point", "_shape", "_g_idx", "_global_scale")
"""What compressed-tensors stores beside a weight, behind the weight's name."""

_OF_ACTIVATIONS = (
    *("activation_scale", "input_scale", "output_scale", "input_global_scale", "qscale_act"),
    *("input_zero_point", "output_zero_point", "k_scale", "v_scale"),
)
"""Ends of names of what rounds activations: training computes them in full."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The headers of the plain checkpoint, and how many tensors were decoded."""

    headers: Headers
    num_decoded: int


def decode_headers(headers: Headers, stated: dict[str, Any], name: str) -> Decoded:
    """Return the headers as the plain checkpoint would have them: scales gone, blocks unpacked.

    `stated` is config.json's quantization_config. Raises ConfigError for parts that do not fit.
    """
    match quantization_method(stated):
        case "mxfp4":
            return _mxfp4(headers, name)
        case "compressed-tensors":
            return _compressed(headers, stated, name)
        case _:
            return _fp8(headers, stated, name)


def _mxfp4(headers: Headers, name: str) -> Decoded:
    """(experts, rows, groups, 16 bytes of two numbers) -> (experts, columns, rows)."""
    plain, decoded = dict(headers), 0
    for key in [key for key in headers if key.endswith("_blocks")]:
        whole, shape = key.removesuffix("_blocks"), headers[key].shape
        if f"{whole}_scales" not in headers or len(shape) != 4:
            raise _broken(name, f"{key} has no {whole}_scales, or not four dimensions")
        experts, rows, groups, packed = shape
        header = TensorHeader("BF16", (experts, groups * packed * 2, rows), headers[key].file)
        del plain[key], plain[f"{whole}_scales"]
        plain[whole] = header
        decoded += 1
    return Decoded(headers=plain, num_decoded=decoded)


def _compressed(headers: Headers, stated: dict[str, Any], name: str) -> Decoded:
    plain, decoded = dict(headers), 0
    bits = _bits(stated)
    for key, header in headers.items():
        whole = key.removesuffix("_packed")
        coded = header.dtype.startswith("F8") or header.dtype == "I8" or whole != key
        if not key.endswith(("weight", "weight_packed")) or not coded:
            continue
        if header.dtype == "I8" and ".experts." in key:
            raise _broken(
                name, f"{key} is an expert in INT8, which transformers does not put together"
            )
        for part in _COMPRESSED_PARTS:
            plain.pop(f"{whole}{part}", None)
        rows, columns = header.shape[-2:]
        shape = (rows, columns * 32 // bits) if whole != key else header.shape
        del plain[key]
        plain[whole] = TensorHeader("BF16", shape, header.file)
        decoded += 1
    return Decoded(headers=_without_activations(plain), num_decoded=decoded)


def _bits(stated: dict[str, Any]) -> int:
    groups = stated.get("config_groups") or {}
    found = [(group.get("weights") or {}).get("num_bits") for group in groups.values()]
    return int(next((bits for bits in found if bits), 4))


def _fp8(headers: Headers, stated: dict[str, Any], name: str) -> Decoded:
    """FP8 with one scale a tensor or a block, and two numbers of FP4 in a byte."""
    plain, decoded = dict(headers), 0
    block = stated.get("weight_block_size")
    for key, header in headers.items():
        if header.dtype not in ("F8_E4M3", "F8_E5M2", "I8"):
            continue
        scale = _scale_of(key, headers)
        if scale is None and header.dtype == "I8":
            continue
        if scale is None:
            raise _broken(name, f"{key} is in FP8, and has no scale under a name that is read")
        shape = header.shape
        if header.dtype == "I8":
            shape = (*shape[:-1], shape[-1] * 2)
        _check_grid(name, key, shape, headers[scale].shape, block)
        del plain[scale]
        plain[key] = TensorHeader("BF16", shape, header.file)
        decoded += 1
    return Decoded(headers=_without_activations(plain), num_decoded=decoded)


def is_of_activations(key: str) -> bool:
    """Tell whether a tensor of a quantised checkpoint says how to round activations."""
    return key.endswith(_OF_ACTIVATIONS)


def _without_activations(headers: Headers) -> Headers:
    return {key: header for key, header in headers.items() if not is_of_activations(key)}


def _scale_of(key: str, headers: Headers) -> str | None:
    stem = key.removesuffix(".weight")
    names = (f"{key}_scale_inv", f"{stem}.scale", f"{stem}.qscale_weight")
    return next((name for name in names if name in headers), None)


def _check_grid(
    name: str, key: str, shape: tuple[int, ...], grid: tuple[int, ...], block: Any
) -> None:
    """Scales are spread evenly by transformers: a last block that is not whole shifts all."""
    if len(shape) < 2 or len(grid) < 2:
        return
    for size, scales, side in zip(shape[-2:], grid[-2:], block or (None, None), strict=False):
        even = scales > 0 and size % scales == 0
        if not even or (side and scales > 1 and size // scales != side):
            raise _broken(
                name,
                f"{key} of {size} numbers in {scales} blocks of {side or 'one size'}: the last is "
                "not whole",
            )


def _broken(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"model.name_or_path: {name!r} cannot be decoded exactly ({what}); give the unquantised "
        "model (bfloat16), which its makers or others have published."
    )
