"""sft-train --multirun as it is typed: checked first, continued, fair, and answered at the end."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sft_app.records.result import RunResult, Status, read_result
from tests.programs import has_saved, started, wait_for

Run = Callable[..., subprocess.CompletedProcess[str]]
PRETEND = {"PYTHONPATH": str(Path(__file__).parents[1] / "pretend")}


@pytest.fixture
def sweep(tiny_model: Path, chat_file: Path) -> list[str]:
    """The command without what varies."""
    return [
        "sft-train", "--multirun", "sweep.name=mine", "launch.device=cpu",
        f"model.name_or_path={tiny_model}", f"data.train={chat_file}", "data.eval_examples=20",
        "data.num_proc=1",
    ]  # fmt: skip


def results(folder: Path) -> dict[str, RunResult]:
    return {path.parent.name: read_result(path.parent) for path in folder.glob("*/result.json")}


def test_one_bad_job_stops_the_sweep_by_name_before_a_folder_exists(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    """rope=dynamic is refused for training: the plan finds it out, without weights."""
    answer = run_command(*sweep, "context_length=64,128", "rope=linear,dynamic", cwd=tmp_path)
    assert answer.returncode == 2
    assert "job context_length-128_rope-dynamic:" in answer.stderr
    assert "rope.force=true" in answer.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_same_sweep_started_twice_runs_each_job_once(tmp_path: Path, sweep: list[str]) -> None:
    """Two terminals: whoever comes second to a job waits, and finds it done."""
    program = Path(sys.executable).with_name(sweep[0])
    command = [str(program), *sweep[1:], "context_length=128", "rope=linear", "seed=1,2,3"]
    with contextlib.ExitStack() as both:
        running = [
            both.enter_context(
                started(
                    command, cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, env=PRETEND,
                )
            )
            for _ in range(2)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=180)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert not any("Traceback" in output for output in outputs)
    found = results(tmp_path / "outputs/sweeps/mine")
    assert [result.status for result in found.values()] == [Status.completed] * 3
    starts = [path.read_text() for path in (tmp_path / "outputs/sweeps/mine").glob("*/starts")]
    assert starts == ["x"] * 3


def test_jobs_fail_continue_and_change(run_command: Run, tmp_path: Path, sweep: list[str]) -> None:
    """With pretended training: what is run when, and what is kept."""
    folder = tmp_path / "outputs/sweeps/mine"
    command = [*sweep, "context_length=128", "rope=linear,yarn"]

    first = run_command(*command, "seed=1,13", cwd=tmp_path, env=PRETEND)
    assert first.returncode == 1
    assert "failed: OSError (rank 0): the disk is on fire" in first.stderr
    statuses = {name: result.status for name, result in results(folder).items()}
    assert statuses == {
        "context_length-128_rope-linear_seed-1": Status.completed,
        "context_length-128_rope-linear_seed-13": Status.failed,
        "context_length-128_rope-yarn_seed-1": Status.completed,
        "context_length-128_rope-yarn_seed-13": Status.failed,
    }
    assert "4 cells: 2 completed, 2 failed" in first.stdout
    tracked = {path.parent.name: path.read_text() for path in folder.glob("*/tracked")}
    assert tracked == {name: "1" if "seed-13" in name else "0" for name in statuses}
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert sorted(row["status"] for row in rows) == ["completed", "completed", "failed", "failed"]
    assert (folder / "report.html").is_file()

    begun_with = folder / "context_length-128_rope-yarn_seed-13/identity.json"
    identity = json.loads(begun_with.read_text())
    begun_with.write_text(json.dumps({**identity, "versions": {"torch": "1.0"}}))
    retried = run_command(*sweep, "context_length=128", "rope=yarn", "seed=13,1",
                          cwd=tmp_path, env=PRETEND)  # fmt: skip
    assert retried.returncode == 1
    (goes_on,) = (line for line in retried.stdout.splitlines() if "goes on: " in line)
    assert begun_with.parent.name in goes_on
    assert f"torch {identity['versions']['torch']} instead of 1.0" in goes_on

    again = run_command(*command, "seed=1", cwd=tmp_path, env=PRETEND)
    assert again.returncode == 0
    assert "Nothing is left to do" in again.stdout

    before = results(folder)["context_length-128_rope-linear_seed-1"].started_at
    more = run_command(*command, "seed=1,2", cwd=tmp_path, env=PRETEND)
    assert more.returncode == 0
    assert "2 new, 2 done" in more.stdout
    assert results(folder)["context_length-128_rope-linear_seed-1"].started_at == before

    changed = run_command(
        *command, "seed=1,2", "trainer.learning_rate=1e-3", cwd=tmp_path, env=PRETEND
    )
    assert changed.returncode == 0
    assert "4 changed" in changed.stdout
    assert len(list((folder / ".replaced").iterdir())) == 4


@pytest.mark.slow
def test_jobs_that_would_do_the_same_run_once(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    """64 tokens fit the model: no method changes anything there. At 128 they differ."""
    folder = tmp_path / "outputs/sweeps/mine"
    command = [*sweep, "context_length=64,128", "rope=linear,yarn"]
    answer = run_command(*command, cwd=tmp_path, env=PRETEND)
    assert answer.returncode == 0, answer.stderr
    found = results(folder)
    assert {name: result.status for name, result in found.items()} == {
        "context_length-64_rope-linear": Status.completed,
        "context_length-64_rope-yarn": Status.shared,
        "context_length-128_rope-linear": Status.completed,
        "context_length-128_rope-yarn": Status.completed,
    }
    assert found["context_length-64_rope-yarn"].same_as == "context_length-64_rope-linear"
    assert "4 cells: 4 completed" in answer.stdout
    rows = {row["cell"]: row for row in csv.DictReader((folder / "sweep.csv").open())}
    shared, own = (rows[f"context_length-64_rope-{name}"] for name in ("yarn", "linear"))
    assert shared["status"] == "completed"
    assert shared["heldout_loss_after"] == own["heldout_loss_after"]
    assert (shared["same_as"], own["same_as"]) == ("context_length-64_rope-linear", "")
    again = run_command(*command, cwd=tmp_path, env=PRETEND)
    assert "Nothing is left to do" in again.stdout


def test_out_of_memory_spares_the_longer_and_lets_the_others_run(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    command = [*sweep, "context_length=128,256,64"]
    memory = {**PRETEND, "PRETEND_MEMORY": "100"}
    answer = run_command(*command, cwd=tmp_path, env=memory)
    assert answer.returncode == 1
    assert "out_of_memory: MemoryError" in answer.stderr
    assert "In order of effect, each alone" in answer.stderr, "estimated by the rank itself"
    found = {r.context_length: r for r in results(tmp_path / "outputs/sweeps/mine").values()}
    assert {length: result.status for length, result in found.items()} == {
        64: Status.completed,
        128: Status.out_of_memory,
        256: Status.skipped,
    }
    assert found[256].error is not None
    assert "context_length=128" in found[256].error.message
    assert "1 completed, 1 out of memory, 1 skipped" in answer.stdout

    with_more = run_command(*command, cwd=tmp_path, env=PRETEND)
    assert with_more.returncode == 0
    assert "3 cells: 3 completed" in with_more.stdout


def test_interrupted_it_ends_in_seconds_and_goes_on_from_the_checkpoint(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    command = [
        *sweep, "context_length=64,128", "trainer.max_steps=60", "trainer.save_steps=1",
        "trainer.learning_rate=1e-3", "trainer.gradient_accumulation_steps=1",
    ]  # fmt: skip
    folder = tmp_path / "outputs/sweeps/mine"
    program = str(Path(sys.executable).with_name(command[0]))
    with started(
        [program, *command[1:]], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        wait_for(lambda: has_saved(folder / "context_length-64", 3), process)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert not psutil.wait_procs(below, timeout=10)[1]
    assert results(folder)["context_length-64"].status is Status.interrupted
    assert results(folder)["context_length-128"].status is Status.pending

    answer = run_command(*command, "context_length=64", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    result = results(folder)["context_length-64"]
    assert result.status is Status.completed
    assert result.resumed_from is not None
    assert result.steps == 60
    before, after = result.evaluation_before, result.evaluation_after
    assert before is not None and after is not None
    assert list(before.by_length) == list(after.by_length)
    assert next(iter(before.by_length)) == "64"
    assert after.by_length["64"].loss < before.by_length["64"].loss
