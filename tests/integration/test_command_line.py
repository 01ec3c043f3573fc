"""sft-train as it is typed: quick answers, one message on bad input, nothing written."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("override", "in_message"),
    [
        ("trainer.lerning_rate=1", "Did you mean trainer.learning_rate?"),
        ("rope=yarnn", "Did you mean rope=yarn?"),
        ("context_length=long", "context_length"),
        ("model.name_or_path=/no/such/dir", "model.name_or_path=/no/such/dir"),
        ("rope=longrope", "rope.short_factor"),
        ("data=custom", "data.train is not set"),
    ],
)
def test_bad_input_gives_one_message_and_writes_nothing(
    run_command: Run, tmp_path: Path, override: str, in_message: str
) -> None:
    answer = run_command("sft-train", override, cwd=tmp_path)
    assert answer.returncode in (1, 2)
    assert in_message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("question", [["--help"], ["--cfg", "job"], ["--info", "defaults"]])
def test_questions_are_answered(run_command: Run, tmp_path: Path, question: list[str]) -> None:
    answer = run_command("sft-train", *question, cwd=tmp_path)
    assert answer.returncode == 0
    assert "rope" in answer.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "answer_has"),
    [
        (["sft-train", "--help", "trainer.loss_head"], "liger-kernel's fused"),
        (["sft-train", "rope=yarn", "--help", "rope"], "rope.method=yarn"),
        (["sft-plan", "--help"], "sft-plan says what sft-train would do"),
        (["sft-train", "--schema"], '"$schema": "https://json-schema.org/draft/2020-12/schema"'),
        (["sft-report", "--help"], "report.html"),
    ],
)
def test_settings_and_commands_explain_themselves(
    run_command: Run, tmp_path: Path, command: list[str], answer_has: str
) -> None:
    answer = run_command(*command, cwd=tmp_path)
    assert answer.returncode == 0
    assert answer_has in answer.stdout
    assert not list(tmp_path.iterdir())


def test_tab_completion_offers_options(run_command: Run, tmp_path: Path) -> None:
    answer = run_command(
        "sft-train", "-sc", "query=bash", cwd=tmp_path,
        env={"COMP_LINE": "sft-train rope=y", "COMP_POINT": "16"},
    )  # fmt: skip
    assert "rope=yarn" in answer.stdout.split()


@pytest.mark.parametrize("question", [["--cfg", "job"], ["--help"], ["--help", "trainer"]])
def test_composing_imports_neither_torch_nor_transformers(
    tmp_path: Path, question: list[str]
) -> None:
    code = (
        f"import sys; sys.argv = {['sft-train', *question]}; import atexit;"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'transformers', 'matplotlib'}"
        " & set(sys.modules))));"
        "from sft_app.train import main; main()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in answer.stdout


def test_the_module_is_the_same_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sft_app.train", "context_length=7"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "context_length=7" in answer.stderr


def test_below_torchrun_it_says_how_to_be_started(run_command: Run, tmp_path: Path) -> None:
    answer = run_command("sft-train", cwd=tmp_path, env={"RANK": "0", "LOCAL_RANK": "0"})
    assert answer.returncode == 2
    assert "launch.nproc_per_node" in answer.stderr
