"""One job, from its typed configuration to its result.json: starts workers, waits, concludes."""

import os
import signal
import socket
import sys
import time
from datetime import datetime
from pathlib import Path

from sft_app.common.processes import available_cores
from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig, save_config
from sft_app.config.schema.launch import Device, LaunchConfig
from sft_app.launch.job.gpus import count_visible_gpus
from sft_app.launch.job.messages import opening
from sft_app.launch.job.supervise import Ended, run_supervised
from sft_app.records.failure import Failure, clear_failures, first_failure
from sft_app.records.result import RunError, RunResult, Status, read_result
from sft_app.records.run_files import CONFIG, JOB_LABEL, LOG, RESULT
from sft_app.records.step_log import last_line, note_step


class JobFailed(Exception):
    """The job ended without completing; one string, so that any launcher can pickle it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        """Hold one sentence, and the exit code that the command shall end with."""
        super().__init__(message, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        """Return the sentence alone."""
        return str(self.args[0])


class JobInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended the job. No Exception, which a sweep would note and pass over."""

    def __init__(self, signum: signal.Signals) -> None:
        """Hold the exit code by which shells tell of a signal: 128 and its number."""
        super().__init__(signum.name)
        self.exit_code = 128 + signum


def run_job(config: AppConfig, run_dir: Path, label: str | None = None) -> RunResult:
    """Run one job in `run_dir` and return its result, which stands in result.json as well.

    With a `label` it is a job of a sweep, and shows one line, which begins so. Raises JobFailed
    when the job failed, and JobInterrupted after SIGINT or SIGTERM.
    """
    save_config(config, run_dir / CONFIG)
    clear_failures(run_dir)
    initial_result(config, Status.running).write(run_dir)
    if label is None:
        print(opening(config, run_dir, num_local_processes(config.launch)), flush=True)
    ended = run_supervised(
        worker_command(config.launch, run_dir / CONFIG),
        worker_environment(config.launch) | ({JOB_LABEL: label} if label is not None else {}),
        grace_seconds=config.launch.shutdown_grace_seconds,
    )
    result = conclude(run_dir, ended)
    if ended.interrupted_by is not None:
        raise JobInterrupted(ended.interrupted_by)
    if result.status is not Status.completed:
        assert result.error is not None
        raise JobFailed(f"{result.error.type}: {result.error.message}")
    return result


def worker_command(launch: LaunchConfig, config_path: Path) -> list[str]:
    """Return the command of this node's workers: the worker itself for one, the agent for more."""
    nproc = num_local_processes(launch)
    if nproc == 1 and launch.nnodes == 1:
        return [sys.executable, "-m", "sft_app.training.worker", str(config_path)]
    endpoint = launch.rdzv_endpoint or f"127.0.0.1:{_free_port()}"
    return [
        sys.executable, "-m", "sft_app.launch.job.agent", str(config_path),
        "--nproc-per-node", str(nproc),
        "--nnodes", str(launch.nnodes),
        "--node-rank", str(launch.node_rank or 0),
        "--rdzv-endpoint", endpoint,
        "--rdzv-timeout", str(launch.rdzv_timeout_seconds),
        "--run-id", endpoint,
    ]  # fmt: skip


def num_local_processes(launch: LaunchConfig) -> int:
    """Return launch.nproc_per_node, with auto = the visible GPUs, or one process without any."""
    if isinstance(launch.nproc_per_node, int):
        return launch.nproc_per_node
    gpus = 0 if launch.device is Device.cpu else count_visible_gpus()
    return max(1, gpus)


def worker_environment(launch: LaunchConfig) -> dict[str, str]:
    """Return the parent's environment, with the cores shared out among the workers."""
    environment = dict(os.environ)
    threads = launch.cpu_threads or max(1, available_cores() // num_local_processes(launch))
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # Fork-safety warnings of the tokenizers library; its own threads stay on.
    environment.setdefault("TOKENIZERS_PARALLELISM", "true")
    environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(max(1, launch.shutdown_grace_seconds // 2))
    if launch.device is Device.cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def conclude(run_dir: Path, ended: Ended) -> RunResult:
    """Bring result.json to its final state from what the workers left and how they ended."""
    result = read_result(run_dir)
    failure = first_failure(run_dir)
    if ended.exit_code == 0 and result.status is Status.completed:
        clear_failures(run_dir)
        return result
    newest = last_line(run_dir)  # result.json lags behind it by a moment
    if newest is not None:
        note_step(result, newest)
    result.finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
    started = datetime.fromisoformat(result.started_at).timestamp()
    result.seconds.setdefault("total", round(time.time() - started, 3))
    if ended.interrupted_by is not None:
        result.status = Status.interrupted
        result.error = RunError(
            type="Interrupted", message=f"ended by {_name(ended.interrupted_by)}"
        )
    elif failure is not None:
        result.status = failure.status
        result.error = failure.error
    else:
        result.status, result.error = _silent_death(ended)
    result.write(run_dir)
    clear_failures(run_dir)
    _explain(result, failure, run_dir)
    return result


def _silent_death(ended: Ended) -> tuple[Status, RunError]:
    """Describe a worker that could not write why: killed from outside, or crashed below Python."""
    if ended.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        message = (
            "a worker was killed with SIGKILL, which is what the system does when memory runs out: "
            "lower trainer.per_device_train_batch_size or context_length, or turn on "
            "trainer.gradient_checkpointing"
        )
        return Status.failed, RunError(type="WorkerKilled", message=message)
    how = f"signal {_name(-ended.exit_code)}" if ended.exit_code < 0 else f"code {ended.exit_code}"
    return Status.failed, RunError(
        type="WorkerDied", message=f"a worker process ended with {how} without saying why"
    )


def _explain(result: RunResult, failure: Failure | None, run_dir: Path) -> None:
    assert result.error is not None
    if result.status is Status.interrupted:
        print(f"\nsft-train: {result.error.message}; what there is stands in {run_dir}",
              file=sys.stderr)  # fmt: skip
        return
    rank = f" (rank {result.error.rank})" if result.error.rank is not None else ""
    print(f"\nsft-train: {result.status}: {result.error.type}{rank}: {result.error.message}",
          file=sys.stderr)  # fmt: skip
    if failure is not None and os.environ.get("HYDRA_FULL_ERROR"):
        print(failure.error.traceback, file=sys.stderr)
    else:
        print(f"The traceback stands in {run_dir / RESULT}, the log in {run_dir / LOG}.",
              file=sys.stderr)  # fmt: skip


def initial_result(config: AppConfig, status: Status) -> RunResult:
    """Make the record of a job that has not done anything yet."""
    return RunResult(
        status=status,
        started_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        config_hash=config_hash(config),
        context_length=config.context_length,
        model=config.model.name_or_path,
        seed=config.seed,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _name(signum: int | None) -> str:
    return signal.Signals(signum).name if signum is not None else "a signal"
