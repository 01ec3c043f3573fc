"""Names of the files in a run's directory: a contract with users and their scripts."""

import secrets
from pathlib import Path

CONFIG = "config.yaml"
PLAN = "plan.json"
IDENTITY = "identity.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
REPORT = "report.html"
EVALUATION = "eval.json"
VERIFICATION = "verification"
MODEL_CARD = "README.md"
LOG = "train.log"
MODEL = "model"
ADAPTER = "adapter"
"""With LoRA and QLoRA: what was trained, which `model/` has merged into its weights."""
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
PROFILE = "profile"
SWEEP_CSV = "sweep.csv"
"""Beside a sweep's own report.html, a folder above its jobs."""
JOB_LABEL = "SFT_JOB_LABEL"
"""Environment variable: what a job of a sweep calls itself, in the one line that it shows."""
WARNINGS_SHOWN = "SFT_WARNINGS_SHOWN"
"""Environment variable: a file that the jobs of a sweep share, with the warnings that the screen
has had of them."""
STACKS = "stacks"
"""Folder with the stacks of all ranks, when launch.timeout has ended a run."""
AUTOPSY = "autopsy"
"""Folder with what steps that were not finite leave to be looked at."""


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` in one step: a reader, or a crash, sees the old text or the new one.

    Each writer has a file of its own until then: of several at once, the last one stands whole.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
