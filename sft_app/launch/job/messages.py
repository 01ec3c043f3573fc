"""What the parent says at the start and at the end of a job."""

import shlex
from datetime import timedelta
from pathlib import Path

from sft_app.common.counted import counted
from sft_app.config.schema.app import AppConfig
from sft_app.records.paste_lines import read_config, train_further
from sft_app.records.result import RunResult, Status
from sft_app.records.run_files import METRICS, MODEL, REPORT, TENSORBOARD

LABEL_WIDTH = 16


def opening(config: AppConfig, run_dir: Path, num_processes: int) -> str:
    """Say what is about to be done, and where it goes."""
    processes = counted(num_processes, "process", "processes")
    lines = {
        "model": config.model.name_or_path,
        "run": f"{from_here(run_dir)}, {processes} on this node",
        "": "The libraries take some seconds to load; then come the plans, and the time needed.",
    }
    return "\n".join(f"{label:<{LABEL_WIDTH}}{text}" for label, text in lines.items())


def sweep_job_closing(result: RunResult, name: str, left: str = "") -> str:
    """Say in one line how the job `name` of a sweep went; `left`: how long the others may take."""
    after = f"; {left}" if left else ""
    if result.status is Status.shared:
        return f"{name}: not run; {result.same_as} runs for both{after}"
    if result.status is Status.dropped and result.error is not None:
        return f"{name}: dropped: {result.error.message}{after}"
    if result.status is not Status.completed:
        return f"{name}: {result.status}{after}"
    parts = [f"completed in {_duration(result)}"]
    measured = result.evaluation_after
    if measured and measured.heldout:
        parts.append(f"held-out loss {measured.heldout.loss:.4f}")
    if measured and measured.by_length:
        lengths = measured.by_length.items()
        shown = ", ".join(f"{m.perplexity:.2f} at {int(length):,}" for length, m in lengths)
        parts.append(f"perplexity {shown}")
    if (wrong := _not_verified(result)) is not None:
        parts.append(f"saved model {wrong}")
    return f"{name}: {', '.join(parts)}{after}"


def closing(result: RunResult, run_dir: Path) -> str:
    """Say how a run went, where things are, and what can be done with them."""
    run_dir = from_here(run_dir)
    lines = [("completed", f"in {_duration(result)}")]
    if result.train_loss_first is not None and result.train_loss_last is not None:
        fell = f"{result.train_loss_first:.4f} -> {result.train_loss_last:.4f}"
        only = f"{result.train_loss_last:.4f} in its only step"
        lines.append(("training loss", fell if result.steps > 1 else only))
    before, after = result.evaluation_before, result.evaluation_after
    if before and after and before.heldout and after.heldout:
        lines.append(
            (
                "held-out loss",
                f"{before.heldout.loss:.4f} -> {after.heldout.loss:.4f}  "
                f"(perplexity {before.heldout.perplexity:.3f} -> {after.heldout.perplexity:.3f})",
            )
        )
    if result.tokens_per_second is not None:
        lines.append(
            (
                "tokens",
                f"{result.tokens.total - result.tokens.padding:,} (padding left out) in "
                f"{counted(result.steps, 'step')} at {result.tokens_per_second:,.0f} tokens/s",
            )
        )
    if (wrong := _not_verified(result)) is not None:
        lines.append(("saved model", wrong))
    lines += [
        ("model", str(run_dir / MODEL)),
        ("report", str(run_dir / REPORT)),
        ("metrics", str(run_dir / METRICS)),
    ]
    run = shlex.quote(str(run_dir))
    commands = [
        f"sft-report --open {run}",
        f"sft-chat {run}",
        f"tensorboard --logdir {shlex.quote(str(run_dir / TENSORBOARD))}",
    ]
    if (further := train_further(run_dir / MODEL, read_config(run_dir))) is not None:
        commands.append(further)
    return "\n".join(
        [
            "",
            *(f"{label:<{LABEL_WIDTH}}{text}" for label, text in lines),
            "Next:",
            *(f"  {command}" for command in commands),
        ]
    )


def _not_verified(result: RunResult) -> str | None:
    """Return what is wrong with the saved model; None: nothing, or nobody has looked."""
    verdict = result.verification
    return None if verdict is None or verdict.passed else verdict.sentence()


def _duration(result: RunResult) -> timedelta:
    return timedelta(seconds=round(result.seconds["total"]))


def from_here(path: Path) -> Path:
    """Make a path shorter to read and to copy, where the path lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
