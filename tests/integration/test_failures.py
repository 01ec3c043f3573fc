"""How runs end that do not end well: the true cause, the exit code, and nobody left running."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sft_app.records.result import Status, read_result
from tests.programs import ignoring_sigint, started, usual_signals

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tiny_model: Path, chat_file: Path, tmp_path: Path) -> Iterator[Start]:
    """start("a=b", ..., env=...) starts the real command, with endless training.

    Whatever a test leaves running, as one that fails does, is ended after it.
    """
    running = contextlib.ExitStack()

    def run(
        *overrides: str,
        env: dict[str, str] | None = None,
        begin: Callable[[], None] = usual_signals,
    ) -> subprocess.Popen[str]:
        command = [
            str(Path(sys.executable).with_name("sft-train")),
            f"model.name_or_path={tiny_model}",
            f"data.train={chat_file}",
            "context_length=64",
            "trainer.max_steps=1000000",
            "evaluation=none",
            "data.eval_examples=0",
            "launch.device=cpu",
            *(
                []
                if any(word.startswith(("run.name=", "hydra.run.dir=")) for word in overrides)
                else ["hydra.run.dir=run"]
            ),
            *overrides,
        ]
        process = started(
            command,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            begin=begin,
            env={"SFT_CACHE_DIR": str(tmp_path / "cache"), **(env or {})},
        )
        return running.enter_context(process)

    with running:
        yield run


def wait_until_training(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Read the output up to the first step; returns all processes below the command."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step "):
            return psutil.Process(process.pid).children(recursive=True)
    raise AssertionError("it ended before its first step:\n" + "".join(lines))


def assert_all_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("signum", "exit_code", "nproc"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1)]
)
def test_a_signal_ends_everything(
    start: Start, tmp_path: Path, signum: signal.Signals, exit_code: int, nproc: int
) -> None:
    begin = usual_signals if signum is signal.SIGINT else ignoring_sigint
    process = start(f"launch.nproc_per_node={nproc}", begin=begin)
    below = wait_until_training(process)
    assert len(below) >= nproc
    process.send_signal(signum)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == exit_code, rest
    assert "Traceback" not in rest
    result = read_result(tmp_path / "run")
    assert result.status is Status.interrupted
    assert result.error is not None and signum.name in result.error.message
    assert result.steps >= 1 and result.tokens.total > 0, "written as training goes"
    assert_all_ended(below)


def test_workers_do_not_survive_a_killed_parent(start: Start) -> None:
    process = start("launch.nproc_per_node=2")
    below = wait_until_training(process)
    process.kill()
    process.wait()
    assert_all_ended(below)


@pytest.mark.slow
def test_a_failing_rank_is_named_with_its_true_cause(start: Start, tmp_path: Path) -> None:
    """Rank 1 is sabotaged from outside, through Python's own start-up hook."""
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import os
            if os.environ.get("RANK") == "1":
                import sft_app.training.run_training as run
                def broken(*args):
                    raise OSError("the disk is on fire")
                run.plan_what_to_measure = broken
        """)
    )
    process = start("launch.nproc_per_node=2", env={"PYTHONPATH": str(tmp_path)})
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 1
    assert "OSError (rank 1): the disk is on fire" in output
    result = read_result(tmp_path / "run")
    assert result.status is Status.failed
    assert result.error is not None
    assert (result.error.type, result.error.rank) == ("OSError", 1)
    assert "in broken" in (result.error.traceback or "")


def test_a_loss_of_nan_fails_the_run_and_its_records_are_named(
    start: Start, tmp_path: Path, chat_file: Path
) -> None:
    process = start("trainer.learning_rate=1e30", "trainer.warmup_steps=0", "trainer.max_steps=20")
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 1, output
    assert "Lower trainer.learning_rate" in output
    assert not (tmp_path / "run" / "model").exists()
    (autopsy,) = (tmp_path / "run/autopsy").glob("*.json")
    records = json.loads(chat_file.read_text())
    for row in json.loads(autopsy.read_text())["rows"]:
        named = re.fullmatch(rf"{chat_file} record (\d+), line 1 \(id c(\d+)\)", row["records"][0])
        assert named is not None and int(named[1]) == int(named[2]) + 1
        asked = re.search(r"user\n(spell \w+)", row["begins_with"])
        assert asked is not None
        assert asked[1] in [turn["value"] for turn in records[int(named[2])]["conversations"]]


def test_a_killed_rank_is_named_and_not_the_one_that_lost_it(start: Start, tmp_path: Path) -> None:
    process = start("launch.nproc_per_node=2")
    below = wait_until_training(process)
    (rank_1,) = [child for child in below if child.environ().get("RANK") == "1"]
    rank_1.kill()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "WorkerKilled (rank 1): was killed with SIGKILL" in output
    result = read_result(tmp_path / "run")
    assert result.status is Status.failed
    assert result.error is not None and result.error.rank == 1
    assert_all_ended(below)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "limit", "said"),
    [
        ("sft_trainer.SFTTrainer.training_step", "timeout", "Hung: no micro-batch, step or"),
        ("run_training.load", "model_timeout", "Hung: to load the model took more than"),
        ("run_training.save_final_model", "model_timeout", "Hung: to save the model took more"),
    ],
)
def test_a_rank_that_hangs_ends_the_job_with_every_stack(
    start: Start, tmp_path: Path, method: str, limit: str, said: str
) -> None:
    """Rank 1 is sabotaged from outside, through Python's own start-up hook."""
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import os, time
            if os.environ.get("RANK") == "1":
                import sft_app.training.run_training
                import sft_app.training.sft_trainer
                def wait_for_ever(*args, **kwargs):
                    time.sleep(600)
                sft_app.training.{method} = wait_for_ever
        """)
    )
    process = start(
        "launch.nproc_per_node=2", f"launch.{limit}=12", "trainer.max_steps=2",
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    output = process.communicate(timeout=120)[0]  # also of workers: nobody may hold it open
    assert process.returncode == 1, output
    assert said in output and f"larger launch.{limit} if" in output
    assert "wait_for_ever" in (tmp_path / "run/stacks/rank-1.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-5, 1e30])
def test_no_file_of_a_run_holds_what_it_took_from_the_environment(
    start: Start, tmp_path: Path, chat_file: Path, rate: float
) -> None:
    """Completed, and failed with an autopsy; the name of the variable says nothing."""
    values = {"HF_TOKEN": "hf_0123456789abcdefghij", "COMPANY_PIN": "correct-horse-battery"}
    (tmp_path / f"chat-{values['COMPANY_PIN']}.json").write_bytes(chat_file.read_bytes())
    process = start(
        f"data.train={tmp_path}/chat-${{oc.env:COMPANY_PIN}}.json",
        f"trainer.learning_rate={rate}", "trainer.warmup_steps=0", "trainer.max_steps=5",
        env=values,
    )  # fmt: skip
    output = process.communicate(timeout=180)[0]
    assert process.returncode == (0 if rate < 1 else 1), output
    assert (tmp_path / "run/autopsy").exists() == (rate > 1)
    written = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert len(written) > 8
    for value in values.values():
        assert value not in output
        assert not [path for path, content in written.items() if value.encode() in content]


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["best_fit", "none"])
def test_after_memory_ran_out_the_same_steps_are_made_of_smaller_batches(
    start: Start, tmp_path: Path, packing: str
) -> None:
    """Memory for two rows of four, and only from the third step on: a longer row came."""
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import sys
            if "sft_app.training.worker" in sys.orig_argv:
                import torch
                from sft_app.training.sft_trainer import SFTTrainer
                step = SFTTrainer.training_step
                def limited(self, *args, **kwargs):
                    if self.args.per_device_train_batch_size > 2 and self.state.global_step > 2:
                        raise torch.OutOfMemoryError("no room for that many tokens")
                    return step(self, *args, **kwargs)
                SFTTrainer.training_step = limited
        """)
    )
    words = (
        "trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=1",
        "trainer.max_steps=6", "trainer.save_steps=2", "trainer.save_total_limit=9",
        f"data.packing={packing}",
    )  # fmt: skip
    whole = start(*words)
    output = whole.communicate(timeout=180)[0]
    assert whole.returncode == 0, output
    short = start(
        *words, "trainer.auto_find_batch_size=true", "hydra.run.dir=short",
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    output = short.communicate(timeout=300)[0]
    assert short.returncode == 0, output
    assert "goes on with trainer.per_device_train_batch_size=2 trainer.gradient_acc" in output
    assert "checkpoint-2" in output, "where it went on from is said"
    expected, found = (logged_steps(tmp_path / name) for name in ("run", "short"))
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(expected, found, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["supervised_tokens"] == one["supervised_tokens"]
    assert read_result(tmp_path / "short").status is Status.completed


def logged_steps(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("loss") is not None]


def test_a_named_run_goes_on_is_done_or_is_refused(start: Start, tmp_path: Path) -> None:
    """The same command three times; another one leaves everything as it is."""
    command = ("trainer.max_steps=3", "trainer.save_steps=1", "run.name=mine")
    first = start(*command)
    assert first.communicate(timeout=180)[0] and first.returncode == 0
    run_dir = tmp_path / "outputs/runs/mine"
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    again = start(*command)
    assert "Nothing is left to do" in again.communicate(timeout=60)[0]
    other = start(*command, "seed=7")
    assert "seed was 42 and is 7" in other.communicate(timeout=60)[0]
    assert (again.returncode, other.returncode) == (0, 2)
    after = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    assert after == before
