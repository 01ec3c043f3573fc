"""What a GGUF file says about positions, and whether llama.cpp makes of it what the model does."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sft_app.common.errors import ConfigError
from sft_app.serving.reader_error import in_one_line
from sft_app.serving.serving_lines import yarn_ramp_flags

DEFAULT_THETA = 10000.0
"""llama.cpp's, where a file has none."""
FACTOR_TENSORS = {"rope_freqs": "llama3", "rope_factors_long": "long_factor",
                  "rope_factors_short": "short_factor"}  # fmt: skip
"""Tensors of divisors of the frequencies, and what they hold."""


@dataclass(frozen=True, kw_only=True)
class RopeKeys:
    """What a GGUF file says about positions; None where it says nothing."""

    architecture: str
    context_length: int | None
    freq_base: float | None
    scaling: str | None
    factor: float | None
    original_context: int | None
    attention_factor: float | None = None
    """What llama.cpp multiplies its own attention factor by."""
    has_log_multiplier: bool = False
    """The attention factor of DeepSeek's YaRN is stated another way."""
    divisors: dict[str, list[float]] = field(default_factory=dict)
    """By name of the tensor, as llama3 and longrope have them."""


def read_rope_keys(file: Path) -> RopeKeys:
    """Read what a GGUF file says about positions."""
    from gguf import GGUFReader

    reader = GGUFReader(str(file))

    def value(key: str) -> Any:
        found = reader.get_field(key)
        return None if found is None else found.contents()

    architecture = str(value("general.architecture"))
    scaling = f"{architecture}.rope.scaling"
    tensors = {tensor.name.split(".")[0]: tensor for tensor in reader.tensors}
    return RopeKeys(
        architecture=architecture,
        context_length=value(f"{architecture}.context_length"),
        freq_base=value(f"{architecture}.rope.freq_base"),
        scaling=value(f"{scaling}.type"),
        factor=value(f"{scaling}.factor"),
        original_context=value(f"{scaling}.original_context_length"),
        attention_factor=value(f"{scaling}.attn_factor"),
        has_log_multiplier=value(f"{scaling}.yarn_log_multiplier") is not None,
        divisors={
            name: np.asarray(tensors[name].data, dtype=np.float64).ravel().tolist()
            for name in FACTOR_TENSORS
            if name in tensors
        },
    )


def ramp_hint(model_dir: Path) -> str | None:
    """Say how llama.cpp is told the ends of YaRN's ramp, which it takes from no file."""
    flags = yarn_ramp_flags(_global_rope(_text_config(model_dir)))
    if not flags:
        return None
    return f"llama.cpp takes the ends of YaRN's ramp from its command line: start it with{flags}."


def wrong_rope(keys: RopeKeys, model_dir: Path) -> str | None:
    """Return in words what is wrong with the positions of an exported file; None: nothing."""
    text = _text_config(model_dir)
    rope = _global_rope(text)
    kind = rope.get("rope_type", "default")
    theta = rope.get("rope_theta")
    if not rope:
        return None
    if theta is not None and not _close(keys.freq_base or DEFAULT_THETA, theta):
        return f"its frequency base is {keys.freq_base}, and the model's {theta}"
    match kind:
        case "linear" | "yarn":
            if keys.scaling != kind or not _close(keys.factor or 0.0, rope["factor"]):
                stated = f"{keys.scaling} {keys.factor}"
                return f"its scaling is {stated}, the model's {kind} {rope['factor']}"
            return _wrong_yarn(keys, text, rope) if kind == "yarn" else None
        case "llama3" | "longrope":
            return _wrong_divisors(keys, text, rope, kind)
        case "default":
            scaled = keys.scaling not in (None, "none")
            return f"its scaling is {keys.scaling}, and the model has none" if scaled else None
    return f"GGUF has no {kind} scaling"


def _wrong_yarn(keys: RopeKeys, text: PretrainedConfig, rope: dict[str, Any]) -> str | None:
    original = rope.get("original_max_position_embeddings")
    if original is not None and keys.original_context != original:
        return f"its original context is {keys.original_context}, the model's {original}"
    frequencies, factor = _computed(text, "yarn")
    ours = (keys.attention_factor or 1.0) * (1 + 0.1 * math.log(rope["factor"]))
    if not keys.has_log_multiplier and not _close(ours, factor, 1e-3):
        return (
            f"llama.cpp multiplies attention by {ours:.4f} (0.1 ln(factor) + 1), whatever the file "
            f"says, and the model by {factor:.4f} (rope.attention_factor)"
        )
    if rope.get("truncate") is False:
        rope["truncate"] = True
        rounded, _ = _computed(text, "yarn")
        rope["truncate"] = False
        if not np.allclose(frequencies, rounded, rtol=1e-4):
            return "llama.cpp ends YaRN's ramp on whole dimensions, the model (truncate) does not"
    return None


def _wrong_divisors(
    keys: RopeKeys, text: PretrainedConfig, rope: dict[str, Any], kind: str
) -> str | None:
    wanted: dict[str, Any] = {}
    if kind == "llama3":
        frequencies, _ = _computed(text, kind)
        pairs = np.arange(len(frequencies)) / len(frequencies)
        wanted["rope_freqs"] = 1.0 / (rope["rope_theta"] ** pairs * frequencies)
    else:
        wanted = {
            name: rope[key]
            for name, key in FACTOR_TENSORS.items()
            if isinstance(rope.get(key), list)
        }
    for name, expected in wanted.items():
        if name not in keys.divisors:
            return f"it has no frequency factors ({name}), which {kind} needs"
        found = keys.divisors[name]
        if len(found) != len(expected) or not np.allclose(found, expected, rtol=1e-3):
            return f"its frequency factors ({name}) are not the model's"
    if kind == "longrope":
        _, factor = _computed(text, kind)
        if not _close(keys.attention_factor or 1.0, factor, 1e-3):
            return f"its attention factor is {keys.attention_factor}, and the model's {factor:.4f}"
    return None


def _computed(text: PretrainedConfig, kind: str) -> tuple[Any, float]:
    """Frequencies and attention factor as transformers computes them for the model."""
    nested = "full_attention" in (getattr(text, "rope_parameters", None) or {})
    layer_type = {"layer_type": "full_attention"} if nested else {}
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](text, None, **layer_type)
    return frequencies.double().numpy(), float(factor)


def _text_config(model_dir: Path) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(model_dir).get_text_config(decoder=True)
    except Exception as error:  # whatever a reader would run into
        raise ConfigError(
            f"what {model_dir} means cannot be compared with the file: {in_one_line(error)}"
        ) from error


def _global_rope(text: PretrainedConfig) -> dict[str, Any]:
    """The rope of the layers that see everything."""
    rope: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    found: dict[str, Any] = rope.get("full_attention", rope)
    return found


def _close(found: float, expected: float, tolerance: float = 1e-5) -> bool:
    return abs(found - expected) <= tolerance * abs(expected)
