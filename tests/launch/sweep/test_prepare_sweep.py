"""What a sweep's process does between preparing its jobs and running them."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig

from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.job_errors import JobInterrupted
from sft_app.launch.sweep import prepare_sweep
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.launch.sweep.launcher import Launcher
from sft_app.launch.sweep.prepare_sweep import PrepareSweep, Sweep

Compose = Callable[..., AppConfig]


@pytest.fixture
def handler_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(PrepareSweep, "sweep", None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handler_kept")
def test_a_sweep_that_is_told_to_end_between_two_jobs_is_concluded(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It showed no table, and wrote none, where the signal fell between two jobs."""
    job = SweepJob(overrides=(), config=compose("context_length=512"), run_dir=tmp_path / "job")
    sweep = Sweep(directory=tmp_path, jobs=(job,), launcher=Launcher.serial)
    monkeypatch.setattr(prepare_sweep, "prepare_sweep", lambda master: sweep)
    PrepareSweep().on_multirun_start(DictConfig({}))
    handler = signal.getsignal(signal.SIGTERM)
    assert callable(handler), "the process would end at once"
    with pytest.raises(JobInterrupted) as interrupted:
        handler(signal.SIGTERM, None)
    assert interrupted.value.exit_code == 143
    assert PrepareSweep.sweep is sweep
