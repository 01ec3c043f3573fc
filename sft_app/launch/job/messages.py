"""What the parent says at the start and at the end of a job."""

from datetime import timedelta
from pathlib import Path

from sft_app.config.schema.app import AppConfig
from sft_app.records.result import RunResult, Status
from sft_app.records.run_files import METRICS, MODEL, REPORT, TENSORBOARD


def opening(config: AppConfig, run_dir: Path, num_processes: int) -> str:
    """Say what is about to be done, and where it goes."""
    processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
    return (
        f"Fine-tuning {config.model.name_or_path}\n"
        f"  on {config.data.train}\n"
        f"  at {config.context_length:,} tokens of context, in {processes} on this node\n"
        f"  run directory: {_from_here(run_dir)}\n"
        "Loading the libraries takes some seconds; the plans come first, then the time needed."
    )


def sweep_job_closing(result: RunResult, run_dir: Path) -> str:
    """Say in one line how a job of a sweep went."""
    if result.status is not Status.completed:
        return f"{run_dir.name}: {result.status}"
    line = f"{run_dir.name}: completed in {timedelta(seconds=round(result.seconds['total']))}"
    after = result.evaluation_after
    if after and after.heldout:
        line += f", held-out loss {after.heldout.loss:.4f}"
    for length, measured in (after.by_length if after else {}).items():
        line += f", perplexity {measured.perplexity:.3f} at {int(length):,}"
    return line


def closing(result: RunResult, run_dir: Path) -> str:
    """Say how a run went, where things are, and what can be done with them."""
    run_dir = _from_here(run_dir)
    lines = ["", f"Completed in {timedelta(seconds=round(result.seconds['total']))}."]
    if result.train_loss_first is not None and result.train_loss_last is not None:
        lines.append(
            f"  training loss  {result.train_loss_first:.4f} -> {result.train_loss_last:.4f}"
        )
    before, after = result.evaluation_before, result.evaluation_after
    if before and after and before.heldout and after.heldout:
        lines.append(
            f"  held-out loss  {before.heldout.loss:.4f} -> {after.heldout.loss:.4f}  "
            f"(perplexity {before.heldout.perplexity:.3f} -> {after.heldout.perplexity:.3f})"
        )
    if result.tokens_per_second is not None:
        lines.append(
            f"  {result.tokens.non_padding:,} tokens (padding left out) in {result.steps} steps at "
            f"{result.tokens_per_second:,.0f} tokens/s"
        )
    lines += [
        f"  model    {run_dir / MODEL}",
        f"  report   {run_dir / REPORT}",
        f"  metrics  {run_dir / METRICS}",
        "Next:",
        f"  open {run_dir / REPORT} in a browser",
        f"  sft-report {run_dir}",
        f"  tensorboard --logdir {run_dir / TENSORBOARD}",
        f"  sft-train model.name_or_path={run_dir / MODEL} ...    to go on from this model",
    ]
    return "\n".join(lines)


def _from_here(path: Path) -> Path:
    """Make a path shorter to read and to copy, where the path lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
