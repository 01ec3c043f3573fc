"""Reasons to be careful when the cells of a sweep are compared, found in what they recorded."""

from collections.abc import Callable

from sft_app.records.result import LossMeasurement
from sft_app.reporting.page import format_values
from sft_app.reporting.run.summary import at
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from sft_app.reporting.sweep.sweep_csv import evaluation_lengths

NEARLY_EQUAL = 1.05
"""Times the smallest number of supervised tokens: what more differs is said."""
MOST_SHOWN = 8
Measured = Callable[[CellRecord], LossMeasurement | None]


def cautions(cells: list[CellRecord]) -> list[str]:
    """Return a sentence for each thing that makes the completed cells hard to compare."""
    completed = [cell for cell in cells if cell.is_completed]
    return [
        sentence
        for check in (
            _models,
            _heldout_texts,
            _document_texts,
            _tasks,
            _training_tokens,
            _devices,
            _versions,
            _twice,
        )
        if (sentence := check(completed))
    ]


def _models(cells: list[CellRecord]) -> str:
    models = {cell.model for cell in cells}
    if len(models) < 2:
        return ""
    return (
        f"The cells start from {len(models)} different models: perplexities are per token of each "
        "model's own tokenizer, and comparable only where the tokenizers are the same."
    )


def _heldout_texts(cells: list[CellRecord]) -> str:
    if not _differ_in_text(cells, lambda cell: cell.heldout("after")):
        return ""
    return (
        "The held-out losses were not measured on the same tokens: the cells were not evaluated on "
        "the same conversations, or on as much of each."
    )


def _document_texts(cells: list[CellRecord]) -> str:
    """A sweep that goes on with a longer context reads other documents: those as long as that."""

    def measured_at(length: int) -> Measured:
        return lambda cell: cell.at_length(length, "after")

    uneven = [
        format_values.length(length)
        for length in evaluation_lengths(cells)
        if _differ_in_text(cells, measured_at(length))
    ]
    if not uneven:
        return ""
    return (
        f"At {', '.join(uneven)} tokens the perplexities were measured on different text, which "
        "may explain a difference: documents are chosen by the longest length that a sweep "
        "measures. With the same evaluation.lengths=[...] for all cells, which runs them anew, "
        "they are the same."
    )


def _differ_in_text(cells: list[CellRecord], measured: Measured) -> bool:
    """Tell whether cells were measured on different tokens; of other models they always are."""
    found = [(cell.model, m) for cell in cells if (m := measured(cell)) is not None]
    texts = {(model, m.text) for model, m in found if m.text is not None}
    models = {model for model, _ in texts}
    return len({m.tokens for _, m in found}) > 1 or len(texts) > len(models)


def _tasks(cells: list[CellRecord]) -> str:
    """An effective length hangs on the shortest length, and on what was asked there."""
    asked = {
        tuple((task, *scores) for task, scores in sorted(evaluation.tasks.items()))
        for cell in cells
        if (evaluation := cell.evaluation("after")) and evaluation.tasks
    }
    if len(asked) < 2:
        return ""
    return (
        "The cells were scored on different tasks, or at different lengths: their effective "
        "lengths are not comparable throughout."
    )


def _training_tokens(cells: list[CellRecord]) -> str:
    """Say how far each cell's supervised tokens are off the smallest number, where it matters."""
    if any(cell.settings.get("sweep.continue_budgets") for cell in cells):  # they differ on purpose
        most = max(cell.settings.get("trainer.max_steps", 0) for cell in cells)
        cells = [cell for cell in cells if cell.settings.get("trainer.max_steps") == most]
    counts = {cell.name: cell.result.tokens.supervised for cell in cells if cell.result}
    least = min(counts.values(), default=0)
    if not least or max(counts.values()) <= NEARLY_EQUAL * least:
        return ""
    off: dict[str, list[int]] = {}
    for cell in cells:
        if cell.result:
            more = f"{cell.result.tokens.supervised / least - 1:+.0%}"
            off.setdefault(more, []).append(cell.context_length or 0)
    shown = [
        f"{more} at {', '.join(map(format_values.length, sorted(set(lengths))))}"
        for more, lengths in sorted(off.items(), key=lambda item: int(item[0].rstrip("%")))
    ]
    return (
        f"The cells trained on between {least:,} and {max(counts.values()):,} supervised tokens "
        f"({'; '.join(shown[:MOST_SHOWN])}): more training, and not only the setting, may explain "
        f"a difference. {_way_to_equal_tokens(cells)}"
    )


def _way_to_equal_tokens(cells: list[CellRecord]) -> str:
    if all(at(cell.run.config, "sweep.budget") == "supervised" for cell in cells):
        return (
            "Each cell stops at the whole step that is nearest to sweep.supervised_tokens: a "
            "larger number, or fewer rows a step, brings them closer."
        )
    return "sweep.budget=supervised makes them equal."


def _devices(cells: list[CellRecord]) -> str:
    devices = {(cell.result.device, cell.result.world_size) for cell in cells if cell.result}
    if len(devices) < 2:
        return ""
    return (
        "The cells ran on different devices, or on different numbers of them: tokens per second, "
        "memory and time are not comparable throughout."
    )


def _versions(cells: list[CellRecord]) -> str:
    """What changes numbers in the last digits as a rule, and by more where a defect was mended."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        if cell.result:
            revision = {"revision": cell.result.git_revision} if cell.result.git_revision else {}
            for name, version in {**cell.result.versions, **revision}.items():
                found.setdefault(name, set()).add(version)
    texts = [
        f"{name} {' and '.join(sorted(versions))}"
        for name, versions in sorted(found.items())
        if len(versions) > 1
    ]
    if not texts:
        return ""
    return (
        f"The cells were run by different versions ({'; '.join(texts[:MOST_SHOWN])}): a small "
        "difference may be theirs."
    )


def _twice(cells: list[CellRecord]) -> str:
    """Two runs of one seed, as of two sweeps in one folder, say nothing of other seeds."""
    groups = group_seeds(cells, differences(cells))
    twice = [same for group in groups for same in group.by_seed.values() if len(same) > 1]
    if not twice:
        return ""
    named = "; ".join(" and ".join(cell.name for cell in same) for same in twice[:MOST_SHOWN])
    return (
        f"Cells with the same settings and the same seed ({named}) count as one, with the mean of "
        "what they measured: running a seed again shows no spread over seeds."
    )
