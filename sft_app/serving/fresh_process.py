"""Run the verification of a saved model in a process that shares nothing with this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

from sft_app.records.verification import Check, Verification, verification_from_dict

OF_THIS_PROCESS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                   "MASTER_PORT", "TORCHELASTIC_RUN_ID", "ACCELERATE_USE_FSDP")  # fmt: skip
TRUST = "--trust-remote-code"
"""Argument of the process."""


def verify_in_fresh_process(
    model_dir: Path, expectations: Path | None, *, trust_remote_code: bool = False
) -> Verification:
    """Return what a new process, on the CPU, with plain transformers, makes of `model_dir`.

    `trust_remote_code`: code that stands there may be run. A process that dies counts as a failed
    check; it asks nobody anything.
    """
    environment = {k: v for k, v in os.environ.items() if k not in OF_THIS_PROCESS}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    arguments = [str(model_dir)] if expectations is None else [str(model_dir), str(expectations)]
    if trust_remote_code:
        arguments.append(TRUST)
    answer = subprocess.run(
        [sys.executable, "-m", "sft_app.serving.verifying_process", *arguments],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        return verification_from_dict(json.loads(answer.stdout.strip().splitlines()[-1]))
    except (IndexError, KeyError, TypeError, ValueError):
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        detail = f"the process ended with {answer.returncode}: {last}"
        return Verification(passed=False, checks={"loads": Check(passed=False, detail=detail)})
