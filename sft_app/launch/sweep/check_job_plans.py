"""The plans of all jobs, made in a child process before the sweep starts."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sft_app.common.errors import ConfigError
from sft_app.common.processes import die_with_parent
from sft_app.config.schema.app import save_config
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.launch.warm.warm_python import WarmPython


def check_plans(jobs: Sequence[SweepJob], warm: WarmPython | None = None) -> dict[str, str]:
    """Return, by name, what each job's RoPE plan does to the model.

    Raises ConfigError, with the job's name, for the first whose plans cannot be made.

    Reads configurations and tokenizers, no weights: a RoPE method that the model cannot take, or a
    length beyond its position table, is found out now and not in the sweep's last hour. `warm` is
    what the process that does it is forked from, if given.
    """
    if not jobs:
        return {}
    distinct = {_what_plans_depend_on(job): job for job in reversed(jobs)}
    with tempfile.TemporaryDirectory(prefix="sft-plans-") as temporary:
        folder = Path(temporary)
        order = [job for job in jobs if distinct[_what_plans_depend_on(job)] is job]
        for number, job in enumerate(order):
            save_config(job.config, folder / f"{number:06}.yaml")
        printed = folder / "printed"
        exit_code = _make_plans(folder, printed, warm)
        for number, job in enumerate(order):
            error = folder / f"{number:06}.error"
            if error.exists():
                raise ConfigError(f"job {job.name}: {error.read_text(encoding='utf-8')}")
        if exit_code:
            why = printed.read_text(encoding="utf-8", errors="replace").strip()
            raise ConfigError(f"the plans of the sweep could not be made:\n{why}")
        made = {
            _what_plans_depend_on(job): json.loads((folder / f"{number:06}.json").read_text())
            for number, job in enumerate(order)
        }
    return {job.name: made[_what_plans_depend_on(job)]["applied"] for job in jobs}


def _make_plans(folder: Path, printed: Path, warm: WarmPython | None) -> int:
    if warm is not None and warm.is_ready():
        child = warm.start("sft_app.loader.plan_jobs", [str(folder)], os.environ, output=printed)
        return child.wait()
    with printed.open("w") as output:
        return subprocess.run(
            [sys.executable, "-m", "sft_app.loader.plan_jobs", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,
            check=False,
        ).returncode


def _what_plans_depend_on(job: SweepJob) -> str:
    config = job.config
    return repr((config.target_length, config.model, config.tokenizer, config.rope))
