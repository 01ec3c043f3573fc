"""What a config.json says of rotary positions, before anything is computed from it.

transformers warns of values that cannot be, and goes on with them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError

_LARGEST = {
    "rope_theta": 1e30,
    "factor": 1e6,
    "attention_factor": 1e6,
    "original_max_position_embeddings": 2.0**40,
    "beta_fast": 1e6,
    "beta_slow": 1e6,
    "low_freq_factor": 1e6,
    "high_freq_factor": 1e6,
    "partial_rotary_factor": 1.0,
}
"""Numbers above 0, and more than any model has of each."""

_LISTS = ("short_factor", "long_factor")

_NEEDED = {
    "linear": ("rope_theta", "factor"),
    "dynamic": ("rope_theta", "factor"),
    "yarn": ("rope_theta",),
    "llama3": ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("rope_theta", "short_factor", "long_factor"),
}


def check_stated_rope(hf_config: PretrainedConfig, name: str) -> None:
    """Raise ConfigError for a value that no rotation can have, or one that a method lacks."""
    for where, stated in _sets(hf_config.get_text_config(decoder=True)):
        for key, value in stated.items():
            possible = _possible(key, value)
            if possible is not None:
                raise _refusal(name, f"{where}.{key}={value!r:.50}, where {possible} is expected")
        method = stated.get("rope_type", stated.get("type"))
        if method is not None and not isinstance(method, str):
            raise _refusal(name, f"{where}.rope_type={method!r:.50}, where a name is expected")
        if method in (None, "default") and stated.get("factor") not in (None, 1):
            raise _refusal(
                name,
                f"{where}.factor={stated['factor']!r:.50} without a rope_type that divides by it",
            )
        lacking = [key for key in _NEEDED.get(method or "", ()) if stated.get(key) is None]
        if lacking:
            raise _refusal(name, f"{where}.rope_type={method} without {' and '.join(lacking)}")


def _sets(text: PretrainedConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parameters, of all layers or of each kind of layer, with the name of the place."""
    parameters = getattr(text, "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return
    nested = {key: value for key, value in parameters.items() if isinstance(value, Mapping)}
    if not nested:
        yield "rope_parameters", parameters
    for key, value in nested.items():
        yield f"rope_parameters.{key}", value


def _possible(key: str, value: Any) -> str | None:
    """What is expected under a key in the place of `value`; None where it can be that."""
    if value is None:
        return None
    if key in _LARGEST and not _is_number(value, _LARGEST[key]):
        return f"a number above 0, at most {_LARGEST[key]:g},"
    if key in _LISTS and not (isinstance(value, list) and all(_is_number(v, 1e6) for v in value)):
        return "a list of numbers above 0"
    return None


def _is_number(value: Any, largest: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and 0 < value <= largest


def _refusal(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"model.name_or_path: the config.json of {name!r} says {what}; give the checkpoint's own "
        "config.json."
    )


_KINDS = {"mrope": "default", "su": "longrope"}
"""Words of older versions for the same kind of positions: Qwen2-VL's and Phi-3's."""


def check_one_rope(stated: dict[str, Any], name: str) -> None:
    """Refuse a config.json whose old and new keys say two different rotations.

    Saved for readers of both kinds it has both. Where one of them was edited by hand, each reader
    goes by its own: transformers 5 by `rope_parameters`, but for a `rope_scaling` beside it.

    Raises ConfigError.
    """
    for holder in (stated, stated.get("text_config")):
        if not isinstance(holder, dict):
            continue
        scaling = holder.get("rope_scaling")
        old = dict(scaling) if isinstance(scaling, dict) else {}
        kinds = [_kind(old[key]) for key in ("type", "rope_type") if key in old]
        if len(kinds) == 2 and kinds[0] != kinds[1]:
            raise _two_ropes(name, "rope_scaling.type", old["type"], "rope_type", old["rope_type"])
        new = holder.get("rope_parameters")
        if not isinstance(new, dict):
            continue
        new = new["full_attention"] if isinstance(new.get("full_attention"), dict) else new
        old |= {"rope_type": old.get("rope_type", old.get("type"))} if old else {}
        for key, value in {**old, "rope_theta": holder.get("rope_theta")}.items():
            said = new.get(key)
            if value is None or said is None or _kind(value) == _kind(said):
                continue
            where = key if key == "rope_theta" else f"rope_scaling.{key}"
            raise _two_ropes(name, where, value, f"rope_parameters.{key}", said)


def _kind(value: object) -> object:
    return _KINDS.get(value, value) if isinstance(value, str) else value


def _two_ropes(name: str, one: str, says: object, other: str, otherwise: object) -> ConfigError:
    return ConfigError(
        f"model.name_or_path: the config.json of {name!r} says {one}={says!r:.50} and "
        f"{other}={otherwise!r:.50}, and readers differ in which they go by; let both say the same."
    )
