"""Files beside the weights that others need, and that neither model nor tokenizer writes."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_app.loader.checkpoint.compare_headers import ROTARY_BUFFERS
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.checkpoint.weights_plan import WeightsPlan
from sft_app.records.run_files import write_atomically

OF_THE_TOKENIZER = ("tokenizer.model",)
"""llama.cpp's converter reads it for Phi-3, Gemma-2 and others; its vocabulary is the same."""
COMPANIONS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
_MTP_COUNTS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
_MACHINE_MADE = ("local_files_only", "is_local", "name_or_path", "tokenizer_file")


def copy_companions(model: Checkpoint, tokenizer: str, directory: Path) -> list[str]:
    """Copy what the sources have and `directory` lacks; return the names.

    `tokenizer`: where the tokenizer came from, if not from the model's own checkpoint.
    """
    source = model
    if tokenizer != model.location:
        here = Path(tokenizer).is_dir()
        source = replace(model, location=tokenizer, is_local=here, revision=None)
    return [*_copy(OF_THE_TOKENIZER, source, directory), *_copy(COMPANIONS, model, directory)]


def _copy(names: Iterable[str], source: Checkpoint, directory: Path) -> list[str]:
    copied = []
    for name in names:
        found = source.file(name)
        if found is not None and not (directory / name).exists():
            shutil.copyfile(found, directory / name)
            copied.append(name)
    return copied


def give_processors_the_template(directory: Path) -> list[str]:
    """Let the copied files of a processor say the chat template that was trained with.

    transformers' processors, and vLLM for models with towers, take theirs before the tokenizer's
    chat_template.jinja. Returns the names of the files that said another one.
    """
    whole = directory / "chat_template.jinja"
    if not whole.is_file():
        return []
    trained = whole.read_text(encoding="utf-8")
    has_further = (directory / "additional_chat_templates").is_dir()
    changed = []
    for name in ("chat_template.json", "processor_config.json"):
        path = directory / name
        stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if stated.get("chat_template") in (None, trained):
            continue
        changed.append(name)
        if name == "chat_template.json" and has_further:
            path.unlink()  # a processor refuses one beside files of their own
            continue
        stated["chat_template"] = trained
        write_atomically(path, json.dumps(stated, indent=2, ensure_ascii=False) + "\n")
    return changed


def count_no_dropped_layers(directory: Path, weights_plan: WeightsPlan) -> None:
    """Set the number of MTP layers to 0 in config.json where they were not carried over.

    Who reads the number (vLLM, llama.cpp's converter) would look for weights that are not there.
    """
    if not set(weights_plan.dropped) - {ROTARY_BUFFERS}:
        return
    path = directory / "config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for holder in (settings, settings.get("text_config") or {}):
        holder.update({name: 0 for name in _MTP_COUNTS if holder.get(name)})
    write_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def name_no_code(directory: Path) -> None:
    """Take auto_map out of config.json: the model is of transformers' own classes.

    Published before transformers had the family (Phi-3, DeepSeek-V3), a checkpoint names files of
    code that are not saved with it; who trusts remote code would look for them, and find none.
    """
    path = directory / "config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for holder in (settings, *settings.values()):
        if isinstance(holder, dict):
            holder.pop("auto_map", None)
    write_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def make_tokenizer_portable(directory: Path) -> None:
    """Write tokenizer_config.json so that every version of transformers reads the same from it.

    With a tokenizer.json, it names the class that every version has and that takes the file as it
    is: v4 does not know v5's names, and v5's Llama class builds its own rules. Further special
    tokens stand under the name that both versions read, and all added ones are listed as v4 did:
    llama.cpp's converter, beside a sentencepiece model, looks for them nowhere else. What the
    library noted about this machine goes.
    """
    path = directory / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in _MACHINE_MADE:
        settings.pop(name, None)
    if (directory / "tokenizer.json").is_file() and "auto_map" not in settings:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings.pop("backend", None)
        settings["added_tokens_decoder"] = _added_tokens(directory / "tokenizer.json")
        if isinstance(settings.get("extra_special_tokens"), list):
            further = settings.pop("extra_special_tokens")
            if further:
                settings["additional_special_tokens"] = further
    write_atomically(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _added_tokens(whole: Path) -> dict[str, dict[str, Any]]:
    stated: list[dict[str, Any]] = json.loads(whole.read_text(encoding="utf-8"))["added_tokens"]
    return {str(token.pop("id")): token for token in stated}
