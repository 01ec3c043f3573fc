"""sft-plan as it is typed: the decisions and the data's counts, and nothing written."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_plan_is_printed_and_nothing_is_written(
    run_command: Run, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    (tmp_path / "here").mkdir()
    answer = run_command(
        "sft-plan",
        f"model.name_or_path={tiny_model}",
        f"data.train={chat_file}",
        "data.num_proc=1",
        "data.eval_examples=8",
        "data.preview=1",
        "context_length=128",
        "rope=yarn",
        "launch.device=cpu",
        "plan.gpu=h100",
        cwd=tmp_path / "here",
        env={"SFT_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == "", "neither a traceback nor a library's progress bar"
    # 128 of 64 positions: a factor of 2. 60 conversations, of which a tenth at most is held out.
    assert "yarn" in answer.stdout and "64" in answer.stdout and "128" in answer.stdout
    assert "60 records" in answer.stdout
    assert "it fits" in answer.stdout and "GPU-hours" in answer.stdout, "nothing asks for a GPU"
    assert "spell" in answer.stdout, "data.preview=1 shows a conversation"
    assert not list((tmp_path / "here").iterdir())


def test_jobs_of_a_sweep_are_planned_with_the_batches_of_its_budget(
    run_command: Run, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """A short row is joined by others, until a step has as many tokens as one of long rows."""
    answer = run_command(
        "sft-plan",
        "--multirun",
        "--json",
        f"model.name_or_path={tiny_model}",
        f"data.train={chat_file}",
        "data.num_proc=1",
        "context_length=32,64",
        "sweep.budget=tokens",
        "sweep.tokens=64000",
        "trainer.gradient_accumulation_steps=1",
        "launch.device=cpu",
        cwd=tmp_path,
        env={"SFT_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert answer.returncode == 0, answer.stderr
    short, long = json.loads(answer.stdout)["jobs"]
    assert short["memory"]["activations"] == long["memory"]["activations"]
