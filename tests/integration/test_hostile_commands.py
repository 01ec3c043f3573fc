"""Hundreds of commands that cannot work, each answered with one sentence.

In this process here, which composes once and then applies what a command changes; the slow test
types every one of them.
"""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import sft_app
from sft_app.config import command_line, one_sentence
from sft_app.config.hydra_callback import typed_without_hydra
from sft_app.config.validation.validate import validate
from tests.integration.hostile_commands import hostile_commands, numbers

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = hostile_commands()


def test_there_are_hundreds() -> None:
    assert len(COMMANDS) >= 300 > len(numbers())


@pytest.fixture(scope="module")
def default() -> Any:
    """Return the configuration that no word changes, composed."""
    return OmegaConf.structured(
        sft_app.compose(["model.name_or_path=org/model", "data.train=org/data"])
    )


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[-60:])
def test_it_is_refused_in_one_sentence(
    words: list[str],
    default: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["sft-train", *words]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        command_line.prepare_arguments(argv)
        _compose_and_validate(argv[1:], default)
        raise AssertionError(f"nobody objects to {words}")
    said = capsys.readouterr()
    assert end.value.code in (1, 2)
    assert _is_one_message(said.err) or said.out.startswith("usage:")
    assert not list(tmp_path.iterdir())


def _compose_and_validate(words: list[str], default: Any) -> None:
    """End as the command would, from the configuration that is composed already if that will do."""
    plain = dict(word.split("=", 1) for word in words if word[0].isalpha() and "=" in word)
    quick = len(plain) == len(words) > 2 and all("." in key for key in plain)
    try:
        if quick and not any(value.startswith(("'", "[", "{", "$")) for value in plain.values()):
            config = default.copy()
            for key, value in plain.items():
                OmegaConf.update(config, key, OmegaConf.create(f"v: {value}").v, merge=False)
            validate(typed_without_hydra(config))
        else:
            sft_app.compose([word for word in words if not word.startswith("-")])
    except Exception as error:
        one_sentence.exit_with_message(error)


def _is_one_message(text: str) -> bool:
    return text.startswith("sft-") and text.count("\n") == 1 and "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_it_is_refused_by_the_command_itself(run_command: Run, tmp_path: Path, part: int) -> None:
    """Every command that is not about a number, and a sample of those."""
    some_numbers = random.Random(0).sample(COMMANDS, 40)
    others = [words for words in COMMANDS if words[-1:] not in numbers()]
    wrong = []
    for words in [*others, *some_numbers][part::8]:
        if any("\x00" in word for word in words):
            continue  # no system passes it on
        answer = run_command("sft-train", *words, cwd=tmp_path)
        told = [line for line in answer.stderr.splitlines() if not line.startswith("Checking")]
        one = len(told) == 1 or answer.stdout.startswith("usage:")
        if answer.returncode not in (1, 2) or not one or list(tmp_path.iterdir()):
            wrong.append((words, answer.returncode, answer.stderr[-500:]))
    assert not wrong, sys.stderr.write("\n".join(map(str, wrong)))
