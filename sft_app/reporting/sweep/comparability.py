"""Reasons to be careful when the cells of a sweep are compared, found in what they recorded."""

from collections.abc import Callable

from sft_app.reporting.page import format_values
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.sweep_csv import evaluation_lengths


def cautions(cells: list[CellRecord]) -> list[str]:
    """Return a sentence for each thing that makes the completed cells hard to compare."""
    completed = [cell for cell in cells if cell.is_completed]
    return [
        sentence
        for check in (_models, _evaluation_tokens, _training_tokens, _devices)
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


def _evaluation_tokens(cells: list[CellRecord]) -> str:
    if len(_distinct(cells, lambda cell: m.tokens if (m := cell.heldout("after")) else None)) > 1:
        return (
            "The held-out losses were measured on different numbers of tokens: the cells were not "
            "evaluated on the same documents."
        )
    uneven = [
        format_values.length(length)
        for length in evaluation_lengths(cells)
        if len({m.tokens for cell in cells if (m := cell.at_length(length, "after"))}) > 1
    ]
    if not uneven:
        return ""
    return (
        f"At {', '.join(uneven)} tokens the perplexities were measured on different amounts of "
        "text: the cells were not evaluated on the same documents."
    )


def _training_tokens(cells: list[CellRecord]) -> str:
    counts = _distinct(cells, lambda cell: cell.result.tokens.supervised if cell.result else None)
    if len(counts) < 2 or counts[-1] <= 1.05 * counts[0]:
        return ""
    return (
        f"The cells trained on between {counts[0]:,.0f} and {counts[-1]:,.0f} supervised tokens: "
        "more training, and not only the setting, may explain a difference."
    )


def _devices(cells: list[CellRecord]) -> str:
    devices = {(cell.result.device, cell.result.world_size) for cell in cells if cell.result}
    if len(devices) < 2:
        return ""
    return (
        "The cells ran on different devices, or on different numbers of them: tokens per second, "
        "memory and time are not comparable throughout."
    )


def _distinct(cells: list[CellRecord], value: Callable[[CellRecord], float | None]) -> list[float]:
    return sorted({number for cell in cells if (number := value(cell)) is not None})
