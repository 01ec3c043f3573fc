"""Legacy keys in a saved config.json, for readers that do not know `rope_parameters`.

transformers v5 writes `rope_parameters` only; v4, and tools built on it, would load such a model
with its scaling lost, without a word. The old keys say the same, and v5 reads both.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from sft_app.loader.rope.model_context import rope_parameter_sets
from sft_app.records.run_files import write_atomically

_PHI3 = ("phi3", "phimoe", "phi4_multimodal")
_NEOX = ("gpt_neox", "gpt_neox_japanese")
_SECTIONS = ("mrope_section", "mrope_interleaved")
"""What Qwen's models with towers state beside a method: which pairs turn with which axis."""
_TWO_FIELDS = ("olmo", "olmo2")
"""Families whose check in v4 accepts `type` and `factor`, and nothing beside them."""

_METHODS_IN_V4 = {
    "nemotron": ("default",),
    "dbrx": ("default",),
    "olmo": ("default", "linear", "dynamic"),
    "olmo2": ("default", "linear", "dynamic"),
    "llama4_text": ("default", "llama3"),
}
"""Of families whose code in v4 passes over other methods, or takes them for its own."""


NO_WORDS = (
    "transformers before 5 has no words for these positions and will read others: serve what is "
    "saved with transformers 5 or newer."
)


def has_legacy_words(config: PretrainedConfig) -> bool:
    """Tell before anything is trained what `add_legacy_rope_keys` will say of the saved file."""
    with tempfile.TemporaryDirectory(prefix="sft-v4-") as name:
        path = Path(name) / "config.json"
        saved = json.loads(config.to_json_string(use_diff=False))
        if type(config).__module__.startswith("transformers."):  # its code is not saved with it
            saved.pop("auto_map", None)
        path.write_text(json.dumps(saved), encoding="utf-8")
        return add_legacy_rope_keys(path.parent)


def add_legacy_rope_keys(directory: Path) -> bool:
    """Put rope_theta, rope_scaling and their kin beside `rope_parameters`.

    Should transformers read something else from the file afterwards, it is left as it was, and
    False returned: v4 will then read these positions otherwise.
    """
    path = directory / "config.json"
    original = path.read_text(encoding="utf-8")
    config = json.loads(original)
    nested = "rope_parameters" in (config.get("text_config") or {})
    text = config["text_config"] if nested else config
    # A checkpoint with code of its own is read by that code only.
    legacy = {} if "auto_map" in config else legacy_rope_keys(text)
    if not legacy:
        return not text.get("rope_parameters")
    before = _read_sets(directory)
    text.update(legacy)
    write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    if not _reads(directory, before):
        write_atomically(path, original)
        return False
    return _is_read_by_v4(text)


def _is_read_by_v4(text: dict[str, Any]) -> bool:
    """Tell whether the family's code in v4 makes of the old keys what they say."""
    parameters, model_type = text["rope_parameters"], text.get("model_type", "")
    whole = parameters.get("full_attention", parameters)
    method = whole.get("rope_type", "default")
    if method not in _METHODS_IN_V4.get(model_type, (method,)):
        return False
    if "hunyuan" in model_type and method == "dynamic" and not whole.get("alpha"):
        return False
    sets = [found for found in parameters.values() if isinstance(found, dict)]
    return "gemma3" in model_type or len({found.get("rope_theta") for found in sets}) <= 1


def _reads(directory: Path, expected: dict[str, dict[str, Any]]) -> bool:
    """Tell whether the file with the old keys is read, and as `expected`."""
    try:
        return _read_sets(directory) == expected
    except (KeyError, ValueError, TypeError, AttributeError):
        return False  # Gemma 4: the one old set replaces both new ones, and lacks a base


def legacy_rope_keys(text: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of transformers v4 that mean the same as `text["rope_parameters"]`.

    v4 has one set: that of the layers which see everything. For those with a window it has a base
    frequency in Gemma 3, and elsewhere (OLMo 3) takes the same one without scaling.
    """
    parameters = text.get("rope_parameters") or {}
    model_type = text.get("model_type", "")
    if isinstance(parameters.get("full_attention"), dict):
        keys = _flat_keys(parameters["full_attention"], model_type)
        local = parameters.get("sliding_attention") or {}
        if "gemma3" in model_type and local:
            keys["rope_local_base_freq"] = local.get("rope_theta")
        return keys
    if "rope_theta" not in parameters:
        return {}
    return _flat_keys(parameters, model_type)


def _flat_keys(parameters: dict[str, Any], model_type: str) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope_theta": parameters["rope_theta"]}
    share = parameters.get("partial_rotary_factor")
    if share is not None:
        keys["partial_rotary_factor"] = share
    if model_type in _NEOX:
        keys |= {"rotary_emb_base": parameters["rope_theta"], "rotary_pct": share or 1.0}
    scaling = {
        k: v for k, v in parameters.items() if k not in ("rope_theta", "partial_rotary_factor")
    }
    rope_type = scaling.get("rope_type", "default")
    if rope_type in ("linear", "dynamic") and model_type in _TWO_FIELDS:
        scaling = {"type": rope_type, "factor": scaling["factor"]}
    elif rope_type in ("linear", "dynamic"):
        # Some 30 families read `rope_type` only, older code `type` only.
        sections = {key: scaling[key] for key in _SECTIONS if key in scaling}
        scaling = {"rope_type": rope_type, "type": rope_type, "factor": scaling["factor"]}
        scaling |= sections
    elif rope_type == "longrope" and model_type in _PHI3:
        # Phi-3's own check accepts exactly three, and takes the rest from the top level.
        kept = ("short_factor", "long_factor", "short_mscale", "long_mscale", "attention_factor")
        scaling = {"type": "longrope", **{k: scaling[k] for k in kept if k in scaling}}
    if scaling != {"rope_type": "default"}:
        keys["rope_scaling"] = scaling
    return keys


def _read_sets(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what transformers makes of the file, in a form that can be compared."""
    config = AutoConfig.from_pretrained(directory).get_text_config(decoder=True)
    original = getattr(config, "max_position_embeddings", None)
    sets = {}
    for layer_type, parameters in rope_parameter_sets(config).items():
        comparable = {k: v for k, v in parameters.items() if k != "type"}
        if comparable.get("rope_type") == "longrope":
            noted = comparable["original_max_position_embeddings"]
            comparable.setdefault("factor", (original or noted) / noted)
        sets[layer_type] = comparable
    return sets
