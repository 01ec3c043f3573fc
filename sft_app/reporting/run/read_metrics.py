"""metrics.jsonl: what each logging step measured. Lines that cannot be read are counted."""

from pathlib import Path

from sft_app.records.run_files import METRICS
from sft_app.records.step_log import StepLine, parse_line


def read_metrics(run_dir: Path) -> tuple[list[StepLine], list[str]]:
    """Return the steps in order, and what was wrong with the file, in sentences.

    A run that resumed from a checkpoint has written some steps twice: the later line counts.
    """
    path = run_dir / METRICS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], [f"{METRICS} is missing: nothing was logged."]
    except OSError as error:
        return [], [f"{METRICS} cannot be read: {error.strerror}."]
    by_step: dict[int, StepLine] = {}
    unreadable: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parsed = parse_line(line)
        if parsed is None:
            unreadable.append(number)
        elif parsed.loss is None and parsed.eval_loss is not None and parsed.step in by_step:
            by_step[parsed.step].eval_loss = parsed.eval_loss  # measured after the step
        else:
            by_step[parsed.step] = parsed
    problems = [_complaint(unreadable, len(lines))] if unreadable else []
    return [by_step[step] for step in sorted(by_step)], problems


def _complaint(unreadable: list[int], total: int) -> str:
    if unreadable == [total]:
        return f"The last line of {METRICS} is incomplete: the run was writing it, or broke off."
    lines = "line" if len(unreadable) == 1 else "lines"
    return (
        f"{METRICS}: {len(unreadable)} of {total} {lines} cannot be read and were left out "
        f"(the first is line {unreadable[0]})."
    )
