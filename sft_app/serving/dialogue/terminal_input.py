"""Lines from a person at a terminal: history and several lines where prompt_toolkit is there."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft_app.common.processes import is_installed

HISTORY = Path("~/.cache/sft_app/chat_history")


def line_reader() -> Callable[[], str]:
    """Return what reads a line; it raises EOFError at the end."""
    if is_installed("prompt_toolkit") and sys.stdin.isatty():
        return _with_history()
    return lambda: input("> ")


def _with_history() -> Callable[[], str]:
    """Enter sends, Alt-Enter begins a new line, the arrows go back in time."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    file = HISTORY.expanduser()
    history: History = InMemoryHistory()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        history = FileHistory(str(file))
    except OSError:  # a home that cannot be written to: nothing is remembered
        pass
    keys = KeyBindings()

    def new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    keys.add("escape", "enter")(new_line)

    session: PromptSession[str] = PromptSession(
        history=history, key_bindings=keys, prompt_continuation="  "
    )
    return lambda: session.prompt("> ")
