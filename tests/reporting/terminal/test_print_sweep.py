"""A sweep on screens of several widths."""

import re
from pathlib import Path

import pytest

from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.terminal.print_sweep import print_sweep
from tests.reporting.example_runs import write_cell, write_sweep
from tests.reporting.terminal_screens import screen


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "lengths", steps=3)


def shown(sweep: Path, width: int) -> str:
    console, output = screen(width)
    print_sweep(sweep, collect_sweep(sweep, 2.0), console)
    return output.getvalue()


def tables(text: str) -> list[str]:
    """The lines of the tables: what is printed before "Next:" and is no sentence."""
    before = text.split("Next:")[0].splitlines()
    return [line for line in before if re.match(r"(status|completed|trained at|\d+,\d{3}) ", line)]


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_a_table_is_as_wide_as_the_screen_and_its_numbers_are_whole(
    sweep: Path, width: int
) -> None:
    everything = {number for line in tables(shown(sweep, 1000)) for number in line.split()}
    lines = tables(shown(sweep, width))
    assert len(lines) == 1 + 9 + 1 + 3
    for line in lines:
        assert len(line.rstrip()) <= width
        assert "…" not in line
        assert set(line.split()) <= everything, "each value is one that a wide screen shows"
    assert all("32k" in line for line in lines if line.startswith(("status", "trained at")))


def test_80_columns_say_what_was_left_out(sweep: Path) -> None:
    assert "left out for want of room" in shown(sweep, 80)
    assert "left out for want of room" not in shown(sweep, 200)


def test_a_phone_gets_a_card_a_cell(sweep: Path) -> None:
    text = shown(sweep, 44).split("Next:")[0]
    assert text.count("completed  ") == 9
    assert "trained at 8,192" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 44
    assert "ppl 32k 6.39" in text


def test_the_screen_answers_with_what_the_page_answers(sweep: Path, tmp_path: Path) -> None:
    assert shown(sweep, 140).startswith("SmolLM2-135M-Instruct on chat.json\n")
    assert "Best: yarn at 32,768 tokens." in shown(sweep, 140)
    write_cell(tmp_path / "a", world_size=8)
    write_cell(tmp_path / "b", world_size=4, method="linear")
    assert "CAUTION The cells ran on different devices" in shown(tmp_path, 140)
