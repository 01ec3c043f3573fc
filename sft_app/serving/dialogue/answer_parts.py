"""What a model writes in its turn, taken apart: what it thinks, and what it says.

Families that mark both by special tokens (gpt-oss's channels, Gemma 4's, Command-A's) need them
apart in the next prompt: their chat templates drop thoughts that are given as such. Thoughts
between `<think>` and `</think>` stay in the text, where their families' templates look for them.
"""

import re
from collections.abc import Sequence

_THOUGHT = re.compile(
    r"<\|channel\|>analysis<\|message\|>(.*?)(?:<\|end\|>|\Z)"
    r"|<\|channel>thought\n(.*?)(?:<channel\|>|\Z)"
    r"|<\|START_THINKING\|>(.*?)(?:<\|END_THINKING\|>|\Z)",
    re.DOTALL,
)
_HEADER = re.compile(r"<\|start\|>assistant|<\|channel\|>\w+<\|message\|>")
"""What stands before each part of an answer of gpt-oss."""


def without_tokens(text: str, special: Sequence[str]) -> str:
    """Return a text without the special tokens in it."""
    return re.sub("|".join(map(re.escape, special)) or "(?!)", "", text)


def message_of(written: str, special: Sequence[str]) -> dict[str, str]:
    """Return the message of an answer that was decoded with its special tokens."""
    thoughts = [
        part for found in _THOUGHT.finditer(written) for part in found.groups() if part is not None
    ]
    said = _HEADER.sub("", _THOUGHT.sub("", written))
    message = {"role": "assistant", "content": without_tokens(said, special)}
    thought = "\n\n".join(without_tokens(part, special).strip() for part in thoughts).strip()
    return {**message, "reasoning_content": thought} if thought else message
