"""Token ids of a text in which some special tokens are the template's, and others are only text."""

import json
import re
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from sft_app.data.chat.spans import Rendered
from sft_app.data.chat.special_text import special_tokens
from sft_app.data.chat.template import TemplateRefused

_FIRST_STAND_IN = 0xF0000
"""A plane of private-use characters: each special token gets one in the place of its first
character, so that every text keeps its length."""


class LiteralEncoder:
    """Encode renderings whose `literal` places are text.

    The rules of a tokenizer look at what stands beside a text, so it is not encoded in parts. A
    copy of the tokenizer calls its special tokens by other names; the template's tokens get these
    names in the text, and what is left of the old names is no special token any more.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, backend: Tokenizer | None) -> None:
        """Take a tokenizer, and its backend if it has one, without post-processing."""
        self._tokenizer = tokenizer
        self._backend = backend
        self._renamed: Tokenizer | None = None
        tokens = special_tokens(tokenizer)
        self._names = {t: chr(_FIRST_STAND_IN + n) + t[1:] for n, t in enumerate(tokens)}
        self._pattern = re.compile("|".join(map(re.escape, tokens)) or "(?!)")

    def encode(self, rendered: Rendered, plain_ids: list[int]) -> Any:
        """Return the encoding of a rendering; `plain_ids` are those of its text with all tokens.

        Raises TemplateRefused where the copy does not give the same ids for the same tokens.
        """
        if self._renamed is None:
            assert self._backend is not None
            self._renamed = _renamed(self._backend, self._names)
        everything = self._pattern.sub(lambda m: self._names[m[0]], rendered.text)
        if self._renamed.encode(everything, add_special_tokens=False).ids != plain_ids:
            raise _refused()
        return self._renamed.encode(self._with_names(rendered), add_special_tokens=False)

    def encode_in_python(self, rendered: Rendered, end: int) -> list[int]:
        """Return the ids of the text up to a character, by a tokenizer written in Python.

        Raises TemplateRefused where the tokenizer cannot encode a text in parts.
        """
        text = rendered.text[:end]
        plain = self._tokenizer.encode(text, add_special_tokens=False)
        if not any(start < end for start, _ in rendered.literal):
            return plain
        parts, at = [], 0
        for start, stop in self._template_tokens(rendered, text):
            parts += [text[at:start], text[start:stop]]
            at = stop
        parts.append(text[at:])
        together = [i for part in parts for i in self._encode_part(part, part in self._names, {})]
        if together != plain:
            raise _refused()
        as_text = {"split_special_tokens": True}
        return [i for part in parts for i in self._encode_part(part, part in self._names, as_text)]

    def _encode_part(self, part: str, is_token: bool, options: dict[str, bool]) -> list[int]:
        if not part:
            return []
        chosen = {} if is_token else options
        return self._tokenizer.encode(part, add_special_tokens=False, **chosen)

    def _template_tokens(self, rendered: Rendered, text: str) -> list[tuple[int, int]]:
        literal = dict(rendered.literal)
        return [m.span() for m in self._pattern.finditer(text) if m.start() not in literal]

    def _with_names(self, rendered: Rendered) -> str:
        literal = dict(rendered.literal)

        def named(match: re.Match[str]) -> str:
            return match[0] if match.start() in literal else self._names[match[0]]

        return self._pattern.sub(named, rendered.text)


def _refused() -> TemplateRefused:
    return TemplateRefused(
        "a message spells a special token that this tokenizer cannot read as text; "
        "data.special_tokens_in_text=tokens reads it as that token",
        "special_token_in_text",
    )


def _renamed(backend: Tokenizer, names: dict[str, str]) -> Tokenizer:
    """A copy whose special tokens, with the same ids, are called by other names."""
    rules = json.loads(backend.to_str())
    for token in rules["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = rules["model"]
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return Tokenizer.from_str(json.dumps(rules))
