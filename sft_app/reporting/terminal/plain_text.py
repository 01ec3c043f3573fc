"""File contents on a terminal: as text, never as markup or as commands to the terminal."""

from rich.text import Text

STATUS_COLOURS = {
    "completed": "green",
    "failed": "red",
    "died": "red",
    "out_of_memory": "red",
    "unreadable": "red",
    "running": "yellow",
    "interrupted": "yellow",
    "skipped": "yellow",
}


def plain(text: str) -> Text:
    """Return text without control characters: a file must not be able to move the cursor."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))
