"""What of a worker's log reaches the screen, and how it looks there."""

import logging
from pathlib import Path

from sft_app.training.screen.log_setup import ScreenLines, once_in_a_sweep, wrap


def line(text: str, level: int = logging.INFO, *, width: int | None = None, rank: int = 0) -> str:
    record = logging.LogRecord("sft_app.x", level, __file__, 1, text, None, None)
    return ScreenLines(rank, width=width, colour=False).format(record)


def test_a_warning_is_marked_in_words_and_its_label_stays() -> None:
    shown = line("evaluation      no document is long enough", logging.WARNING)
    assert shown == "WARNING         evaluation: no document is long enough"
    assert line("only 3 steps", logging.WARNING) == "WARNING         only 3 steps"
    assert line("attention       sdpa") == "attention       sdpa"


def test_on_a_terminal_a_warning_has_a_colour() -> None:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "careful", None, None)
    shown = ScreenLines(0, width=80, colour=True).format(record)
    assert shown.startswith("\x1b[33m") and shown.endswith("\x1b[0m")


def test_a_long_line_is_wrapped_below_its_text_and_loses_nothing() -> None:
    text = "context         " + " ".join(f"word{number}" for number in range(40))
    for width in (40, 80, 140):
        lines = wrap(text, width).splitlines()
        assert max(map(len, lines)) <= width
        assert " ".join(lines).split() == text.split()
        assert all(line.startswith("  ") for line in lines[1:])
    assert wrap(text, 80).splitlines()[1].startswith(" " * 16 + "word")
    assert line(text, width=None) == text, "in a file or a pipe nothing is wrapped"


def warned(text: str) -> logging.LogRecord:
    return logging.LogRecord("sft_app.x", logging.WARNING, "", 0, text, (), None)


def test_a_sweep_shows_a_warning_of_its_jobs_once(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.touch()
    first, second = once_in_a_sweep(shown), once_in_a_sweep(shown)
    assert first(warned("20% of the tokens are lost to context_length=256."))
    assert not second(warned("11% of the tokens are lost to context_length=512."))
    assert second(warned("another thing"))
    info = logging.LogRecord("sft_app.job", logging.INFO, "", 0, "[2/4] ...", (), None)
    assert second(info) and second(info)


def test_what_cannot_be_remembered_is_shown(tmp_path: Path) -> None:
    assert once_in_a_sweep(tmp_path / "gone" / "shown")(warned("x"))
