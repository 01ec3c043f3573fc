"""The commands that serve a saved model, with the settings that its rope needs."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.serving.saved_settings import global_rope, read_settings, served_length


@dataclass(frozen=True, kw_only=True)
class ServingLine:
    """One engine, and how it is started."""

    engine: str
    command: str
    note: str = ""


def serving_lines(model_dir: Path, shown_as: str | None = None) -> list[ServingLine]:
    """Return a line for vLLM, SGLang, `transformers serve` and llama.cpp, from config.json alone.

    What an engine would compute otherwise has no line.

    Each names the context length outright: engines multiply or take the smaller of several numbers,
    each in its own way. `shown_as`: where the lines say that the model lies; null: in `model_dir`.
    Raises ConfigError for files that cannot be read.
    """
    config = read_settings(model_dir / "config.json")
    text: dict[str, Any] = config.get("text_config") or config
    length = served_length(model_dir, text)
    where = shlex.quote(shown_as or str(model_dir))
    rope = global_rope(text)
    kind = rope["rope_type"]
    # Its cache for dynamic ends at the length before the scaling.
    cached = text.get("max_position_embeddings") if kind == "dynamic" else length
    vllm = f"vllm serve {where}" + (f" --max-model-len {cached}" if cached else "")
    sglang = f"python -m sglang.launch_server --model-path {where}"
    sglang += f" --context-length {length}" if length else ""
    llama = f"llama-server -m model.gguf{f' -c {length}' if length else ''}{_llama_rope(rope)}"
    unknown = kind in ("dynamic", "longrope", "su", "proportional") or _own_attention_factor(rope)
    dynamic = "" if kind != "dynamic" else "dynamic NTK: frequencies follow the length of a request"
    lines = [
        ServingLine(engine="vLLM", command=vllm, note=dynamic),
        ServingLine(engine="SGLang", command=sglang, note=dynamic),
        ServingLine(engine="transformers", command=f"transformers serve {where}"),
    ]
    if _no_layer_rotates(text):  # llama.cpp would rotate them
        return lines
    note = "after sft-export gguf"
    if unknown:
        note += "; it does not know this rope"
    return [*lines, ServingLine(engine="llama.cpp", command=llama, note=note)]


def _no_layer_rotates(text: dict[str, Any]) -> bool:
    """Tell whether the model is what rope=drope leaves."""
    rotates = text.get("no_rope_layers")
    return isinstance(rotates, list) and not any(rotates)


def _llama_rope(rope: dict[str, Any]) -> str:
    """What a GGUF file says as well; for a file that was converted without it."""
    factor = rope.get("factor")
    if rope.get("rope_type") == "linear" and factor:
        return f" --rope-scaling linear --rope-scale {factor:g}"
    if rope.get("rope_type") == "yarn" and factor:
        original = rope.get("original_max_position_embeddings")
        flags = f" --rope-scaling yarn --rope-scale {factor:g}"
        flags += f" --yarn-orig-ctx {original}" if original else ""
        return flags + yarn_ramp_flags(rope)
    return ""


def _own_attention_factor(rope: dict[str, Any]) -> bool:
    """YaRN with an attention factor that is not 0.1 ln(factor) + 1: llama.cpp has no other."""
    factor, own = rope.get("factor"), rope.get("attention_factor")
    if rope.get("rope_type") != "yarn" or not factor or own is None:
        return False
    return abs(own - (1 + 0.1 * math.log(factor))) > 1e-3


def yarn_ramp_flags(rope: dict[str, Any]) -> str:
    """Return llama.cpp's flags for the ends of YaRN's ramp, where they are not the usual ones."""
    if rope.get("rope_type") != "yarn":
        return ""
    ends = {"beta_fast": 32, "beta_slow": 1}
    given = {name: rope.get(name) for name, usual in ends.items() if rope.get(name, usual) != usual}
    return "".join(
        f" --yarn-{name.replace('_', '-')} {value:g}"
        for name, value in given.items()
        if value is not None
    )
