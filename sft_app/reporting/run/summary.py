"""A run in one sentence, and in a handful of numbers."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sft_app.common.counted import counted
from sft_app.records.result import LossMeasurement, RunResult
from sft_app.reporting.page import format_values
from sft_app.reporting.run.read_run import RunFolder, last_written

STATUS_LABELS = {
    "completed": "completed",
    "running": "running",
    "died": "died",
    "failed": "failed",
    "out_of_memory": "out of memory",
    "interrupted": "interrupted",
    "skipped": "skipped",
    "shared": "shared",
    "dropped": "dropped",
    "pending": "not started",
    "unreadable": "unreadable",
    "missing": "no result",
}


@dataclass(kw_only=True)
class KeyNumber:
    """Holds one of the few numbers that a run is known by."""

    label: str
    value: str
    detail: str = ""


def sentence(run: RunFolder) -> str:
    """Say in a sentence what came out."""
    result = run.result
    if run.status == "missing":
        return "This run has written no result and no step."
    if run.status == "pending":
        return "This job of a sweep has not begun."
    if run.status == "died":
        return f"Broke off without a word, killed or with its machine. {_progress(run)}"
    if run.status == "running":
        return _progress(run)
    if result is None:
        return "The result of this run cannot be read."
    if run.status == "out_of_memory":
        return f"Ran out of memory at {result.context_length:,} tokens, {_after_steps(result)}."
    if run.status == "shared":
        return f"Not run: {result.same_as} would do the same, and has the result for both."
    if run.status == "dropped":
        return f"Not run: {result.error.message}." if result.error else "Not run."
    if run.status == "skipped":
        return f"Never begun: {result.error.message}." if result.error else "Never begun."
    if run.status == "interrupted":
        return f"Interrupted {_after_steps(result)}."
    if run.status == "failed":
        error = f" {result.error.type}: {first_line(result.error.message)}" if result.error else ""
        return f"Failed {_after_steps(result)}.{error}"
    return _outcome(result)


def model_of(run: RunFolder) -> str:
    """Return the model as it was asked for, from whichever file says so."""
    if run.result is not None:
        return run.result.model
    return str(at(run.config, "model.name_or_path") or "unknown model")


def context_length_of(run: RunFolder) -> int | None:
    """Return the context length (tokens) from the result, else from the configuration."""
    if run.result is not None:
        return run.result.context_length
    length = at(run.config, "context_length")
    return length if isinstance(length, int) and not isinstance(length, bool) else None


def rope_of(run: RunFolder) -> str:
    """Return method and factor, `yarn × 4`, from the result, else as the configuration asks for."""
    method: Any
    factor: Any
    if run.result is not None and run.result.rope_method is not None:
        method, factor = run.result.rope_method, run.result.rope_factor
    else:
        method, factor = at(run.config, "rope.method"), at(run.config, "rope.factor")
    if method is None:
        return format_values.NOT_MEASURED
    if not isinstance(factor, int | float) or factor == 1 or method == "none":
        return str(method)
    return f"{method} × {factor:g}"


def key_numbers(run: RunFolder) -> list[KeyNumber]:
    """Return context length, method, losses, speed, memory and time, as far as they are known."""
    numbers = [KeyNumber(label="model", value=format_values.model_name(model_of(run)))]
    if data := data_of(run):
        numbers.append(KeyNumber(label="data", value=data))
    if (length := context_length_of(run)) is not None:
        numbers.append(KeyNumber(label="context length", value=f"{length:,}", detail="tokens"))
    numbers.append(KeyNumber(label="RoPE", value=rope_of(run)))
    if (adapter := at(run.config, "adapter.method")) is not None:
        numbers.append(KeyNumber(label="tuning", value="full" if adapter == "none" else adapter))
    rate = at(run.config, "trainer.learning_rate")
    if isinstance(rate, int | float):
        numbers.append(KeyNumber(label="learning rate", value=f"{rate:g}"))
    if (result := run.result) is None:
        return numbers
    before, after = heldout(result, "before"), heldout(result, "after")
    if after or before:
        numbers.append(_heldout_number(before, after))
    if result.train_loss_last is not None:
        first = format_values.loss(result.train_loss_first)
        last = format_values.loss(result.train_loss_last)
        detail = f"from {first}" if result.steps > 1 else "in its only step"
        numbers.append(KeyNumber(label="training loss", value=last, detail=detail))
    if result.tokens_per_second is not None:
        rate = format_values.rate(result.tokens_per_second)
        processes = counted(result.world_size, "process", "processes")
        numbers.append(KeyNumber(label="tokens per second", value=rate, detail=processes))
    numbers += _utilisation(result)
    for kind in ("device", "host"):
        if kind in result.peak_memory_bytes:
            size = format_values.byte_size(result.peak_memory_bytes[kind])
            numbers.append(KeyNumber(label="peak memory", value=size, detail=kind))
            break
    if (total := total_seconds(run)) is not None:
        earlier = result.seconds_before
        detail = f"and {format_values.duration(earlier)} before it went on" if earlier else ""
        wall_time = format_values.duration(total)
        numbers.append(KeyNumber(label="wall time", value=wall_time, detail=detail))
    return numbers


def heldout(result: RunResult, when: str) -> LossMeasurement | None:
    """Return the held-out measurement `before` or `after` training."""
    evaluation = result.evaluation_before if when == "before" else result.evaluation_after
    return evaluation.heldout if evaluation else None


def loss_of(measurement: LossMeasurement | None) -> float | None:
    """Return the loss (nats per supervised token) of a measurement that may not be there."""
    return measurement.loss if measurement else None


def perplexity_of(measurement: LossMeasurement | None) -> float | None:
    """Return the perplexity of a measurement that may not be there."""
    return measurement.perplexity if measurement else None


def data_of(run: RunFolder) -> str:
    """Return what was trained on, as it was asked for; of several sources, each by its name."""
    asked = at(run.config, "data.train")
    sources = asked if isinstance(asked, list) else [asked]
    paths = [source.get("path") if isinstance(source, dict) else source for source in sources]
    return ", ".join(format_values.model_name(str(path)) for path in paths if path)


def total_seconds(run: RunFolder) -> float | None:
    """Return the wall time of the run's last start; None where it has not begun.

    One that runs or was killed has written of the phases that it has ended alone: how long it has
    taken, its last sign of life says.
    """
    result = run.result
    if result is None:
        return None
    if total := result.seconds.get("total"):
        return total
    phases = sum(result.seconds.values())
    return max(phases, _until_last_seen(run, result)) or None


def _until_last_seen(run: RunFolder, result: RunResult) -> float:
    if run.last_sign_of_life is None:
        return 0.0
    try:
        return run.last_sign_of_life - datetime.fromisoformat(result.started_at).timestamp()
    except ValueError:
        return 0.0


def at(config: dict[str, Any], dotted: str) -> Any:
    """Return the value at a dotted key; None when any part of the way is missing."""
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def first_line(text: str, most: int = 200) -> str:
    """Return the first line that is not empty, cut to `most` characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 1] + "…"


def _outcome(result: RunResult) -> str:
    before, after = heldout(result, "before"), heldout(result, "after")
    if before and after and math.isfinite(before.loss) and math.isfinite(after.loss):
        verb = "fell" if after.loss < before.loss else "rose"
        if after.loss == before.loss:
            verb = "stayed"
        return (
            f"Held-out loss {verb} from {format_values.loss(before.loss)} to "
            f"{format_values.loss(after.loss)} (perplexity "
            f"{format_values.perplexity(before.perplexity)} to "
            f"{format_values.perplexity(after.perplexity)})."
        )
    if after:
        return f"Held-out loss after training: {format_values.loss(after.loss)}."
    if result.steps == 1 and result.train_loss_last is not None:
        return (
            f"Training loss {format_values.loss(result.train_loss_last)} in its only step; "
            "held-out loss was not measured."
        )
    if result.train_loss_first is not None and result.train_loss_last is not None:
        return (
            f"Training loss went from {format_values.loss(result.train_loss_first)} to "
            f"{format_values.loss(result.train_loss_last)}; held-out loss was not measured."
        )
    return "Completed; no loss was recorded."


def _progress(run: RunFolder) -> str:
    written = datetime.fromtimestamp(last_written(run.directory), UTC)
    since = f"last written {written:%Y-%m-%d %H:%M} UTC"
    if not run.metrics:
        return f"Started, no step logged yet; {since}."
    newest = run.metrics[-1]
    return f"Step {newest.step:,}, loss {format_values.loss(newest.loss)}; {since}."


def _after_steps(result: RunResult) -> str:
    if not result.steps:
        return "before the first step"
    return f"after {counted(result.steps, 'step')}"


def _utilisation(result: RunResult) -> list[KeyNumber]:
    """Against the datasheet where the device has one; else against what was measured."""
    for share, of in (
        (result.model_flops_utilisation, "of the datasheet's FLOP/s"),
        (result.measured_matmul_utilisation, "of the measured matmul rate"),
    ):
        if share is not None:
            return [KeyNumber(label="utilisation", value=format_values.share(share), detail=of)]
    return []


def _heldout_number(before: LossMeasurement | None, after: LossMeasurement | None) -> KeyNumber:
    if after is None:
        assert before is not None
        value = format_values.loss(before.loss)
        return KeyNumber(label="held-out loss", value=value, detail="before training")
    detail = f"from {format_values.loss(before.loss)}" if before else "after training"
    return KeyNumber(label="held-out loss", value=format_values.loss(after.loss), detail=detail)
