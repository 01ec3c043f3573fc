"""The plans of all jobs, made in a child process before the sweep starts."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sft_app.common.errors import ConfigError
from sft_app.common.processes import die_with_parent
from sft_app.config.schema.app import save_config
from sft_app.launch.sweep.compose_jobs import SweepJob


def check_plans(jobs: Sequence[SweepJob]) -> None:
    """Raise ConfigError, with the job's name, for the first whose plans cannot be made.

    Reads configurations and tokenizers, no weights: a RoPE method that the model cannot take, or a
    length beyond its position table, is found out now and not in the sweep's last hour.
    """
    if not jobs:
        return
    distinct = {_what_plans_depend_on(job): job for job in reversed(jobs)}
    with tempfile.TemporaryDirectory(prefix="sft-plans-") as temporary:
        folder = Path(temporary)
        order = [job for job in jobs if distinct[_what_plans_depend_on(job)] is job]
        for number, job in enumerate(order):
            save_config(job.config, folder / f"{number:06}.yaml")
        ended = subprocess.run(
            [sys.executable, "-m", "sft_app.loader.plan_jobs", temporary],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            preexec_fn=die_with_parent,
            check=False,
        )
        for number, job in enumerate(order):
            error = folder / f"{number:06}.error"
            if error.exists():
                raise ConfigError(f"job {job.name}: {error.read_text(encoding='utf-8')}")
        if ended.returncode:
            raise ConfigError(f"the plans of the sweep could not be made:\n{ended.stderr.strip()}")


def _what_plans_depend_on(job: SweepJob) -> str:
    config = job.config
    return repr((config.context_length, config.model, config.tokenizer, config.rope))
