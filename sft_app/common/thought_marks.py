"""How chat templates write what a model thinks before it answers: the marks of the families."""

import re

_OPENINGS = ("<think>", "<|channel>thought")
_EMPTY = r"(?:<think>\s*</think>|<\|channel>thought\s*<channel\|>)"
"""Qwen's, GLM's and Nemotron's; Gemma 4's."""

_AT_START = re.compile(rf"\s*{_EMPTY}\s*")
_AT_END = re.compile(rf"{_EMPTY}\s*\Z")
_OPENED = re.compile(r"<think>\s*\Z")
_LONGEST = 64
"""Characters of an empty thought with the white space around it."""


def end_of_empty_thought(text: str, start: int, stop: int) -> int | None:
    """Return where the empty thought ends with which an answer in [start, stop) begins.

    The prompt before the answer may have opened it. None: there is none.
    """
    opened = _OPENED.search(text, max(0, start - _LONGEST), start)
    thought = _AT_START.match(text, opened.start() if opened else start, stop)
    return thought.end() if thought else None


def without_empty_thought(prompt: str) -> str | None:
    """Return a prompt without the empty thought at its end, which asks not to think; None: none."""
    thought = _AT_END.search(prompt, max(0, len(prompt) - _LONGEST))
    return prompt[: thought.start()] if thought else None


def opens_a_thought(prompt: str) -> bool:
    """Tell whether the model is asked behind a thought that is open already."""
    return _OPENED.search(prompt, max(0, len(prompt) - _LONGEST)) is not None


def begins_with_a_thought(answer: str) -> bool:
    """Tell whether an answer begins with a thought, or with the mark that ends one."""
    return answer.lstrip().startswith((*_OPENINGS, "</think>"))
