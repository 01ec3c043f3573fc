"""A terminal of a given width that keeps what was printed."""

import io

from rich.console import Console


def screen(width: int) -> tuple[Console, io.StringIO]:
    """A console, and the file that it prints to."""
    output = io.StringIO()
    return Console(file=output, width=width, highlight=False), output
