"""sweep=halving as it is typed: killed and restarted, it ends with the same table."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sft_app.records.result import RunResult, Status, read_result
from tests.integration.trained_runs import run_training
from tests.programs import started, wait_for

Run = Callable[..., subprocess.CompletedProcess[str]]
TRAINING = (
    "context_length=128", "data.num_proc=1", "trainer.gradient_accumulation_steps=1",
    "trainer.lr_scheduler_type=constant_with_warmup", "trainer.warmup_steps=2",
)  # fmt: skip


def table(folder: Path) -> dict[str, tuple[Status, float | None, str | None]]:
    return {
        path.parent.name: _row(read_result(path.parent)) for path in folder.glob("*/result.json")
    }


def _row(result: RunResult) -> tuple[Status, float | None, str | None]:
    heldout = result.evaluation_after.heldout if result.evaluation_after else None
    why = result.error.message if result.error else None
    return result.status, heldout.loss if heldout else None, why


@pytest.mark.slow
def test_killed_and_restarted_it_ends_with_the_same_table(
    run_command: Run, tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    command = [
        "sft-train", "--multirun", "sweep=halving", "sweep.rungs=2", "sweep.tokens=1536",
        "trainer.learning_rate=3e-4,1e-3,3e-3", "launch.device=cpu", "data.eval_examples=8",
        f"model.name_or_path={tiny_model}", f"data.train={chat_file}", "evaluation.tasks=[]",
        "evaluation.verify_saved=false", *TRAINING,
    ]  # fmt: skip
    whole, killed = (tmp_path / "outputs/sweeps" / name for name in ("whole", "killed"))
    answer = run_command(*command, "sweep.name=whole", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "of which 1 went on" in answer.stdout

    program = str(Path(sys.executable).with_name(command[0]))
    second = killed / "context_length-128_sweep.rung-0_trainer.learning_rate-0.001"
    with started([program, *command[1:], "sweep.name=killed"], cwd=tmp_path) as process:
        wait_for(lambda: _status(second) is Status.running, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = run_command(*command, "sweep.name=killed", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert table(killed) == table(whole)
    assert sum(status is Status.dropped for status, *_ in table(whole).values()) == 2
    assert (
        "Nothing is left to do" in run_command(*command, "sweep.name=killed", cwd=tmp_path).stdout
    )

    best = whole / "context_length-128_sweep.rung-1_trainer.learning_rate-0.003"
    assert "rung-0" in (read_result(best).resumed_from or ""), "it went on from its checkpoint"
    in_one_go = run_training(
        run_command, tiny_model, chat_file, "trainer.max_steps=12", "trainer.learning_rate=3e-3",
        "evaluation.tasks=[]", *TRAINING, work=tmp_path, cache=tmp_path / "cache",
    )  # fmt: skip
    promoted = load_file(best / "model/model.safetensors")
    for name, weight in in_one_go.weights().items():
        assert weight.equal(promoted[name]), f"{name}: bit for bit as without a break"


def _status(folder: Path) -> Status | None:
    try:
        return read_result(folder).status
    except ValueError:
        return None
