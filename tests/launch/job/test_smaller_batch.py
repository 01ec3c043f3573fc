"""trainer.auto_find_batch_size, with a worker that has memory for one row."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig, load_config
from sft_app.config.validation.validate import validate
from sft_app.launch.job import run_job as job
from sft_app.launch.job.job_errors import JobFailed
from sft_app.records.identity import compare, identity_of, read_identity
from sft_app.records.result import Status, read_result

Compose = Callable[..., AppConfig]

WORKER = """
import sys
from pathlib import Path
from sft_app.config.schema.app import load_config
from sft_app.records.failure import record_failure
from sft_app.records.result import Status, read_result

run_dir = Path(sys.argv[1]).parent
trainer = load_config(Path(sys.argv[1])).trainer
with (run_dir / "starts").open("a") as file:
    print(trainer.per_device_train_batch_size, trainer.gradient_accumulation_steps,
          trainer.resume_from_checkpoint, file=file)
if trainer.per_device_train_batch_size > 1:
    (run_dir / "checkpoints/checkpoint-1").mkdir(parents=True, exist_ok=True)
    record_failure(run_dir, MemoryError("no room"), rank=0, status=Status.out_of_memory)
    sys.exit(1)
result = read_result(run_dir)
result.status = Status.completed
result.write(run_dir)
"""


@pytest.fixture
def run(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[AppConfig, list[str]]]:
    """run("a=b", ...) -> the configuration, and what each start of the worker was told."""
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(
        job, "worker_command",
        lambda launch, config, **options: [sys.executable, f"{tmp_path}/worker.py", f"{config}"],
    )  # fmt: skip
    (tmp_path / "model").mkdir()
    (tmp_path / "chat.jsonl").write_text("[1]")

    def started(*overrides: str) -> tuple[AppConfig, list[str]]:
        where = (f"model.name_or_path={tmp_path}/model", f"data.train={tmp_path}/chat.jsonl")
        config = compose(*where, "launch.nproc_per_node=1", *overrides)
        (tmp_path / "run").mkdir()
        try:
            job.run_job(config, tmp_path / "run")
        finally:
            told = (tmp_path / "run/starts").read_text().splitlines()
        return config, told

    return started


def test_the_batch_shrinks_and_a_step_keeps_its_rows(run, tmp_path) -> None:
    config, starts = run(
        "trainer.per_device_train_batch_size=6", "trainer.gradient_accumulation_steps=2",
        "trainer.auto_find_batch_size=true", "trainer.resume_from_checkpoint=never",
    )  # fmt: skip
    assert starts == ["6 2 never", "3 4 auto", "1 12 auto"]
    before = read_identity(tmp_path / "run")
    assert before is not None
    assert not compare(before, identity_of(config, 1)).differences, "the same command goes on"
    assert load_config(tmp_path / "run/config.yaml").trainer.gradient_accumulation_steps == 12


def test_without_it_the_job_ends_with_what_to_change(run, tmp_path) -> None:
    with pytest.raises(JobFailed, match=r"no room\. Memory ran out at context_length=.*: use"):
        run("trainer.per_device_train_batch_size=6")
    assert (tmp_path / "run/starts").read_text().count("\n") == 1
    assert read_result(tmp_path / "run").status is Status.out_of_memory


def test_several_nodes_cannot_start_again_together(compose: Compose) -> None:
    config = compose("trainer.auto_find_batch_size=true", "launch.nnodes=2")
    with pytest.raises(ConfigError, match=r"trainer\.auto_find_batch_size.*launch\.nnodes=2"):
        validate(config)
