"""report.html of what sft-eval measured, from its folder alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.records.evaluation_file import read_about, read_evaluation
from sft_app.records.result import Evaluation, LossMeasurement
from sft_app.records.run_files import EVALUATION, REPORT, write_atomically
from sft_app.reporting.page import format_values
from sft_app.reporting.page.html_templates import render
from sft_app.reporting.run.describe import describe
from sft_app.reporting.run.long_context import long_context_of_one


@dataclass(kw_only=True)
class LossRow:
    """Holds one line of the table of losses, as texts."""

    label: str
    loss: str
    perplexity: str
    tokens: str


def is_evaluation(directory: Path) -> bool:
    """Tell whether sft-eval has measured something into this very directory."""
    return (directory / EVALUATION).is_file()


def write_evaluation_report(directory: Path) -> Path:
    """Write report.html from eval.json, and return its path.

    Raises ValueError where eval.json is missing or cannot be read.
    """
    path = directory / REPORT
    page = evaluation_page(directory, read_evaluation(directory), read_about(directory))
    write_atomically(path, page)
    return path


def evaluation_page(directory: Path, evaluation: Evaluation, about: dict[str, Any]) -> str:
    """Return the page as HTML; `about`: what eval.json says beside the measurements."""
    model = format_values.model_name(str(about.get("model", "unknown model")))
    length = about.get("context_length")
    own = length if isinstance(length, int) and length > 0 else 0
    return render(
        "evaluation_report.html",
        title=f"{model} · {directory.absolute().name}",
        directory="/".join(directory.absolute().parts[-3:]).lstrip("/"),
        headline=f"{model} at {own:,} tokens" if own else model,
        losses=_losses(evaluation),
        long_context=long_context_of_one(evaluation, own),
        lm_eval=[describe(task, metrics) for task, metrics in evaluation.lm_eval.items()],
        about=[describe(key.replace("_", " "), value) for key, value in about.items()],
    )


def _losses(evaluation: Evaluation) -> list[LossRow]:
    found: list[tuple[str, LossMeasurement]] = []
    if evaluation.heldout is not None:
        found.append(("held-out conversations", evaluation.heldout))
    for length in sorted(evaluation.by_length, key=int):
        found.append((f"{int(length):,} tokens", evaluation.by_length[length]))
    return [
        LossRow(
            label=label,
            loss=format_values.loss(measured.loss),
            perplexity=format_values.perplexity(measured.perplexity),
            tokens=format_values.count(measured.tokens),
        )
        for label, measured in found
    ]
