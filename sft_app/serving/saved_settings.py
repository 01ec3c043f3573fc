"""What the JSON files of a saved model say about positions, read without transformers.

By whomever they were written: transformers 5 has the rotation in `rope_parameters`, older versions
in `rope_scaling`, and a tokenizer may state no length, or one that its model was never scaled to.
"""

import json
from pathlib import Path
from typing import Any

from sft_app.common.errors import ConfigError

BEYOND_ALL = 2**40
"""Tokens: a tokenizer without a limit states a larger number."""


def read_settings(path: Path) -> dict[str, Any]:
    """Return the names and values of a JSON file; raises ConfigError for one that has none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    return found


def global_rope(text: dict[str, Any]) -> dict[str, Any]:
    """Return the rope of the layers that see everything, `rope_type` in it; empty for none.

    Raises ConfigError for one that is no rope.
    """
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if isinstance(rope, dict) and isinstance(rope.get("full_attention"), dict):
        rope = rope["full_attention"]
    if not isinstance(rope, dict):
        raise _no_rope(rope)
    factor = rope.get("factor")
    if factor is not None and (not isinstance(factor, int | float) or not factor > 0):
        raise _no_rope(rope)
    return {**rope, "rope_type": rope.get("rope_type") or rope.get("type") or "default"}


def _no_rope(rope: object) -> ConfigError:
    return ConfigError(
        f"config.json states a rope that is none ({rope!r:.200}): give the model's own config.json."
    )


def served_length(model_dir: Path, text: dict[str, Any]) -> int | None:
    """Return the tokens that a saved model can be served with; None where nothing says it.

    Of what its tokenizer and its configuration say, the smaller number.
    """
    path = model_dir / "tokenizer_config.json"
    stated = read_settings(path).get("model_max_length") if path.is_file() else None
    known = isinstance(stated, int) and 0 < stated < BEYOND_ALL
    lengths = [*([int(stated)] if known and stated else []), *_scaled_length(text)]
    return min(lengths, default=None)


def _scaled_length(text: dict[str, Any]) -> list[int]:
    """Return how far the positions reach, as none or one number.

    With linear and dynamic scaling max_position_embeddings is the length before it, but in Gemma 3;
    with the others it is the one after it, or yarn's may be.
    """
    rope = global_rope(text)
    stated = [text.get(name) for name in ("max_position_embeddings", "model_max_length")]
    numbers = [int(n) for n in stated if isinstance(n, int | float) and 0 < n < BEYOND_ALL]
    if not numbers:
        return []
    original = rope.get("original_max_position_embeddings") or numbers[0]
    scales = rope["rope_type"] in ("linear", "dynamic", "yarn")
    if scales and isinstance(original, int | float) and "gemma3" not in str(text.get("model_type")):
        numbers.append(round(original * (rope.get("factor") or 1.0)))
    return [max(numbers)]
