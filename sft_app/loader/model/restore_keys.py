"""The keys of the checkpoint's own config.json, put back into the one that is saved.

transformers v5 renames keys (`num_experts`), renames values (Granite's `layer_types`) and leaves
keys out that it does not know. Its own reader takes both; v4 and tools built on it take the old
ones only. So whatever the source said, and training did not change, is said again in its words.
"""

import json
import re
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.records.run_files import write_atomically

_CHANGED = re.compile(
    r"rope_.*|rotary_.*|partial_rotary_factor|.*_token_ids?|.*torch_dtype|dtype|use_cache|vocab_size|"
    r"max_position_embeddings|original_max_position_embeddings|max_sequence_length|max_seq_len|"
    r"model_max_length|seq_length|n_positions|n_ctx|quantization_config|transformers_(?:version|weights)|_name_or_path|"
    r"num_nextn_predict_layers|mtp_num_hidden_layers|head_dim|architectures|auto_map|_attn_implementation.*"
)
"""What training, or saving, decides anew."""

_SAME_NUMBER = (("num_experts", "num_local_experts"), ("num_local_experts", "num_experts"))
"""Names of v4 beside those of v5, where a family has both."""

_OLD_LAYER_TYPES = {
    "granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"},
}


def restore_keys(directory: Path, source: Checkpoint | None) -> None:
    """Put back into config.json what transformers reads alike and other readers need.

    Each key is tried against transformers' own reader: one that would change what it reads is left
    out. `source` None: only the old names of what is saved are added.
    """
    path = directory / "config.json"
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "auto_map" in saved:  # read by the code that the checkpoint carries only
        return
    before = _read(directory)
    stated: dict[str, Any] = {}
    if source is not None:
        stated, _ = PretrainedConfig.get_config_dict(source.location, **source.arguments())
    additions = [*_old_names(saved, ()), *_missing(stated, saved, ())]
    if not _try(path, saved, additions, directory, before):
        kept = saved
        for addition in additions:
            if _try(path, kept, [addition], directory, before):
                kept = json.loads(path.read_text(encoding="utf-8"))


Addition = tuple[tuple[str, ...], Any]
"""Where a value goes (keys from the top), and the value."""


def _missing(stated: dict[str, Any], saved: dict[str, Any], at: tuple[str, ...]) -> list[Addition]:
    """List what the source says and the saved file does not, or says otherwise."""
    found: list[Addition] = []
    for key, value in stated.items():
        if _CHANGED.fullmatch(key):
            continue
        if isinstance(value, dict) and isinstance(saved.get(key), dict):
            found += _missing(value, saved[key], (*at, key))
        elif key not in saved or saved[key] != value:
            found.append(((*at, key), value))
    return found


def _old_names(saved: dict[str, Any], at: tuple[str, ...]) -> list[Addition]:
    found: list[Addition] = []
    family = str(saved.get("model_type", ""))
    aliases = _aliases(family)
    for old, new in _SAME_NUMBER:
        if aliases.get(old) == new and new in saved and old not in saved:
            found.append(((*at, old), saved[new]))
    old_types = _OLD_LAYER_TYPES.get(family)
    if old_types and saved.get("layer_types"):
        found.append(((*at, "layer_types"), [old_types.get(t, t) for t in saved["layer_types"]]))
    if "dtype" in saved and not at:
        found.append((("torch_dtype",), saved["dtype"]))
    if isinstance(saved.get("text_config"), dict):
        found += _old_names(saved["text_config"], (*at, "text_config"))
    return found


def _aliases(model_type: str) -> dict[str, str]:
    try:
        return dict(type(AutoConfig.for_model(model_type)).attribute_map)
    except Exception:  # a family that transformers does not know, or cannot make without values
        return {}


def _try(
    path: Path, base: dict[str, Any], additions: list[Addition], directory: Path, before: object
) -> bool:
    """Write `base` with the additions; put `base` back unless transformers reads what it did."""
    changed = json.loads(json.dumps(base))
    for (*parents, key), value in additions:
        holder = changed
        for parent in parents:
            holder = holder[parent]
        holder[key] = value
    write_atomically(path, json.dumps(changed, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    try:
        same = _read(directory) == before
    except Exception:  # a value that v5 refuses
        same = False
    if not same:
        write_atomically(
            path, json.dumps(base, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        )
    return same


def _read(directory: Path) -> dict[str, Any]:
    """Return what transformers makes of the file, but for keys that mean nothing to it."""
    config = AutoConfig.from_pretrained(directory)
    return _known(config)


def _known(config: PretrainedConfig) -> dict[str, Any]:
    """Keep the fields that the family's class has: others are notes, which no model reads."""
    fields = {}
    for key, value in config.to_dict().items():
        part = getattr(config, key, None)
        if isinstance(part, PretrainedConfig):
            fields[key] = _known(part)
        elif hasattr(type(config), key) or key in _annotations(type(config)):
            fields[key] = value
    return fields


def _annotations(config_class: type) -> set[str]:
    return {name for base in config_class.__mro__ for name in getattr(base, "__annotations__", {})}
