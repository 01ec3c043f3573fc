"""sft-chat as people use it: a question on the command line, a pipe, and a terminal."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.data.read.read_files import read_file
from sft_app.data.read.record import Record

Run = Callable[..., subprocess.CompletedProcess[str]]
PATIENCE = 240.0
"""Seconds: a process that starts imports torch and transformers first."""


@pytest.mark.slow
def test_one_question_by_option_and_by_pipe(
    run_command: Run, tiny_model: Path, tmp_path: Path
) -> None:
    shared = (str(tiny_model), "--max-new-tokens", "4", "--temperature", "0")
    asked = run_command("sft-chat", *shared, "--prompt", "Hi", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "of 64 tokens; the answer ends here, after --max-new-tokens=4)" in asked.stdout
    assert "Talk to the model" not in asked.stdout
    piped = subprocess.run(
        [sys.executable, "-m", "sft_app.chat", *shared],
        input="Hi\n", capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (piped.returncode, piped.stdout) == (0, asked.stdout), "the same answer"
    nothing = run_command("sft-chat", str(tmp_path), "--prompt", "Hi", cwd=tmp_path)
    assert nothing.returncode == 2
    assert "holds no saved model" in nothing.stderr


@pytest.mark.slow
def test_a_conversation_at_a_terminal(tiny_model: Path, tmp_path: Path) -> None:
    """Keys go in and text comes out, through a pseudo-terminal."""
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "sft_app.chat", str(tiny_model), "--max-new-tokens", "2"]
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path, env=environment
    )
    os.close(terminal)
    try:
        screen = Screen(keyboard)
        screen.wait_for("Talk to the model")
        for line, answer in (
            ("/help", "append the conversation"),
            ("/system Be brief.", "The system turn is set."),
            ("Hi", "of 64 tokens"),
            ("/save chat.jsonl", "Saved to chat.jsonl."),
            ("/reset", "Forgotten."),
            ("/load chat.jsonl", "Loaded 3 turns."),
            ("/load missing", "No such file"),
        ):
            os.write(keyboard, f"{line}\r".encode())
            screen.wait_for(answer)
        screen.wait_for("\x1b[?25h")  # the prompt: before it, a terminal takes Ctrl-D for itself
        os.write(keyboard, b"\x04")
        screen.read_to_the_end()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)
    (record,) = read_file(tmp_path / "chat.jsonl")
    assert isinstance(record, Record)
    assert [turn["role"] for turn in record.value["messages"]] == ["system", "user", "assistant"]


class Screen:
    """What a terminal has shown since somebody last waited for it."""

    def __init__(self, keyboard: int) -> None:
        self.keyboard = keyboard
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Read until `text` has come, and forget what stood before it."""
        end = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < end, f"no {text!r} in {self.shown!r}"
            if select.select([self.keyboard], [], [], 1.0)[0]:
                self.shown += os.read(self.keyboard, 4096).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def read_to_the_end(self) -> None:
        """Read until nobody writes any more: a terminal that is not read holds its program up."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if select.select([self.keyboard], [], [], 1.0)[0]:
                try:
                    if not os.read(self.keyboard, 4096):
                        return
                except OSError:  # EIO: as Linux says that the other end is closed
                    return
        raise AssertionError("it did not leave")
