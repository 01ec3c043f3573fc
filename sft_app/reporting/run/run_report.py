"""report.html of one run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sft_app.records.result import LossMeasurement, RunResult
from sft_app.records.run_files import (
    CHECKPOINTS,
    LOG,
    METRICS,
    MODEL,
    REPORT,
    SWEEP_CSV,
    write_atomically,
)
from sft_app.reporting.page import format_values
from sft_app.reporting.page.html_templates import render
from sft_app.reporting.run import summary
from sft_app.reporting.run.describe import Entry, describe, remarks
from sft_app.reporting.run.long_context import long_context
from sft_app.reporting.run.read_run import RunFolder, read_run
from sft_app.reporting.run.run_figures import evaluation_figures, training_figures
from sft_app.reporting.run.what_changed import what_changed

PLAN_ORDER = ("rope", "tokenizer", "data", "memory")


@dataclass(kw_only=True)
class EvaluationRow:
    """Holds one line of the table before and after training, as texts."""

    label: str
    is_trained_length: bool = False
    loss_before: str
    loss_after: str
    perplexity_before: str
    perplexity_after: str
    change: str
    tokens: str
    passkey_before: str
    passkey_after: str


@dataclass(kw_only=True)
class Share:
    """Holds a part of a whole, as a bar and a row of numbers show it."""

    label: str
    value: str
    share: float


def write_run_report(run_dir: Path) -> Path:
    """Write report.html from whatever files the run has; returns its path."""
    path = run_dir / REPORT
    write_atomically(path, run_page(read_run(run_dir)))
    return path


def run_page(run: RunFolder) -> str:
    """Return the page of one run as HTML."""
    result = run.result
    model = format_values.model_name(summary.model_of(run))
    length = summary.context_length_of(run)
    headline = f"{model} at {length:,} tokens" if length else model
    evaluation = evaluation_rows(result) if result else []
    return render(
        "run_report.html",
        title=f"{headline} · {run.directory.name}",
        directory="/".join(run.directory.absolute().parts[-3:]).lstrip("/"),
        headline=headline,
        sentence=summary.sentence(run),
        changed=what_changed(run),
        is_running=run.status == "running",
        links=_links(run.directory),
        key_numbers=summary.key_numbers(run),
        run=run,
        error=result.error if result else None,
        evaluation=evaluation,
        has_passkey=any(
            cell != format_values.NOT_MEASURED
            for row in evaluation
            for cell in (row.passkey_before, row.passkey_after)
        ),
        evaluation_figures=evaluation_figures(result) if result else [],
        long_context=long_context(result) if result else None,
        training_figures=training_figures(run),
        tokens=_token_shares(result) if result else [],
        token_total=format_values.count(result.tokens.total) if result else "",
        phases=_phase_shares(result) if result else [],
        phase_total=format_values.duration(summary.total_seconds(run)) if result else "",
        plan=_plan_entries(run),
        remarks=_remarks(run),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        if run.config
        else "",
        environment=_environment(result) if result else [],
    )


def _links(run_dir: Path) -> list[tuple[str, str]]:
    """Return labels and addresses, relative to the page, of what stands beside it."""
    beside = [("model", MODEL), ("log", LOG), ("metrics", METRICS), ("checkpoints", CHECKPOINTS)]
    links = [(label, f"./{name}") for label, name in beside if (run_dir / name).exists()]
    for up, folder in zip(("../", "../../"), run_dir.absolute().parents, strict=False):
        if (folder / SWEEP_CSV).is_file():
            links.append(("sweep", f"{up}{REPORT}"))
    return links


def evaluation_rows(result: RunResult) -> list[EvaluationRow]:
    """Return held-out conversations first, then each evaluated length."""
    before, after = result.evaluation_before, result.evaluation_after
    heldout = (summary.heldout(result, "before"), summary.heldout(result, "after"))
    rows = [_row("held-out conversations", *heldout)] if any(heldout) else []
    losses_before = before.by_length if before else {}
    losses_after = after.by_length if after else {}
    passkey_before = before.passkey if before else {}
    passkey_after = after.passkey if after else {}
    lengths = {*losses_before, *losses_after, *passkey_before, *passkey_after}
    for length in sorted(lengths, key=int):
        row = _row(f"{int(length):,} tokens", losses_before.get(length), losses_after.get(length))
        row.is_trained_length = int(length) == result.context_length
        row.passkey_before = format_values.share(passkey_before.get(length))
        row.passkey_after = format_values.share(passkey_after.get(length))
        rows.append(row)
    return rows


def _row(
    label: str, before: LossMeasurement | None, after: LossMeasurement | None
) -> EvaluationRow:
    measured = after or before
    return EvaluationRow(
        label=label,
        loss_before=format_values.loss(before.loss if before else None),
        loss_after=format_values.loss(after.loss if after else None),
        perplexity_before=format_values.perplexity(before.perplexity if before else None),
        perplexity_after=format_values.perplexity(after.perplexity if after else None),
        change=format_values.change(
            before.perplexity if before else None, after.perplexity if after else None
        ),
        tokens=format_values.count(measured.tokens if measured else None),
        passkey_before=format_values.NOT_MEASURED,
        passkey_after=format_values.NOT_MEASURED,
    )


def _token_shares(result: RunResult) -> list[Share]:
    counts = result.tokens
    if counts.total <= 0:
        return []
    context = max(0, counts.total - counts.supervised - counts.padding)
    parts = [
        ("supervised (assistant turns)", counts.supervised),
        ("read as context", context),
        ("padding", counts.padding),
    ]
    return [
        Share(label=label, value=format_values.count(part), share=part / counts.total)
        for label, part in parts
    ]


def _phase_shares(result: RunResult) -> list[Share]:
    phases = {name: max(0.0, s) for name, s in result.seconds.items() if name != "total"}
    total = max(result.seconds.get("total", 0.0), sum(phases.values()))
    if not 0 < total < float("inf"):
        return []
    phases["other"] = total - sum(phases.values())
    return [
        Share(label=name.replace("_", " "), value=format_values.duration(s), share=s / total)
        for name, s in phases.items()
        if s > 0.005 * total or name != "other"
    ]


def _plan_entries(run: RunFolder) -> list[Entry]:
    known = [key for key in PLAN_ORDER if key in run.plan]
    others = [key for key in run.plan if key not in PLAN_ORDER]
    return [describe(key, _with_units(key, run.plan[key])) for key in known + others]


def _with_units(section: str, value: Any) -> Any:
    """The memory estimate counts bytes, apart from what it calls num_*."""
    if section != "memory" or not isinstance(value, dict):
        return value
    return {
        key if key.startswith("num_") or key.endswith("_bytes") else f"{key}_bytes": size
        for key, size in value.items()
    }


def _remarks(run: RunFolder) -> list[str]:
    sections = {key: value for key, value in run.plan.items() if isinstance(value, dict)}
    return [f"{key}: {text}" for key, value in sections.items() for text in remarks(value)]


def _environment(result: RunResult) -> list[Entry]:
    facts = {
        "status": summary.STATUS_LABELS[result.status.value],
        "started": result.started_at,
        "finished": result.finished_at,
        "resumed from": result.resumed_from,
        "steps left out": result.skipped_steps or None,
        "rewinds": _rewinds(result),
        "device": result.device,
        "processes": result.world_size,
        "parameters": result.num_parameters,
        "trained parameters": result.num_trainable_parameters,
        "steps": result.steps,
        "weights of step": None
        if result.weights_of_step == result.steps
        else result.weights_of_step,
        "epochs": round(result.epochs, 4),
        "seed": result.seed,
        "model": result.model,
        "saved model": result.verification.sentence() if result.verification else None,
        "git revision": result.git_revision,
        "configuration hash": result.config_hash,
        **{f"{name} version": version for name, version in result.versions.items()},
    }
    return [describe(label, value) for label, value in facts.items() if value is not None]


def _rewinds(result: RunResult) -> str | None:
    """Say where training went back because of a spike of its loss."""
    told = [
        f"from step {one.step} to {one.back_to} (loss {one.loss:.4g}, usually {one.usual_loss:.4g})"
        for one in result.rewinds
    ]
    return "; ".join(told) or None
