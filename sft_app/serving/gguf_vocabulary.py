"""Whether a GGUF file knows the tokens that were added to a model's vocabulary."""

from pathlib import Path
from typing import Any

from sft_app.serving.saved_settings import read_settings


def lost_token(file: Path, model_dir: Path) -> str | None:
    """Say in words which added token an exported file does not have; None: it has all of them.

    The converter fills ids for which it finds no token with names of its own, `[PAD32000]`: a chat
    template's marks would be spelled out in the prompt, and an answer would have no end.
    """
    added = _added_tokens(model_dir)
    if not added:
        return None
    from gguf import GGUFReader

    found = GGUFReader(str(file)).get_field("tokenizer.ggml.tokens")
    tokens: list[str] = [] if found is None else found.contents()
    for number, content in sorted(added.items()):
        own = tokens[number] if number < len(tokens) else None
        if own in (None, f"[PAD{number}]") and own != content:
            return f"its token {number} is {own!r}, and the model's {content!r}"
    return None


def _added_tokens(model_dir: Path) -> dict[int, str]:
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        return {}
    stated: list[dict[str, Any]] = read_settings(path).get("added_tokens") or []
    return {int(token["id"]): str(token["content"]) for token in stated}
