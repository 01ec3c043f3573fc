"""What a step that is not finite leaves to be looked at: its numbers, its tensors, its texts."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sft_app.common.secrets import hide_in_texts
from sft_app.records.run_files import AUTOPSY, write_atomically
from sft_app.training.guards.step_guard import Look, nonfinite_tensors

MOST_NAMES = 100
MOST_ROWS = 16
SHOWN_TOKENS = 60


def write_autopsy(
    run_dir: Path,
    *,
    step: int,
    rank: int,
    look: Look,
    losses: list[Tensor],
    norm: float | None,
    model: nn.Module,
    batches: list[dict[str, Any]],
    records: list[list[str]],
    tokenizer: PreTrainedTokenizerBase | None,
    logged: list[dict[str, Any]],
) -> Path:
    """Write one rank's autopsy of the step that was to follow `step`, and return its path.

    `records` names, for each row of the batches in order, the records that it was made of.
    """
    gradients = nonfinite_tensors((name, p.grad) for name, p in model.named_parameters())
    weights = nonfinite_tensors(model.named_parameters())
    told = {
        "step": step + 1,
        "rank": rank,
        "loss_of_all_ranks": look.loss,
        "loss_is_finite_on_all_ranks": look.finite_loss,
        "gradient_is_finite": look.finite_gradient,
        "gradient_norm": norm,
        "losses_of_micro_batches": [loss.item() for loss in losses],
        "nonfinite_gradients": _first(gradients),
        "nonfinite_weights": _first(weights),
        "last_metrics": logged[-3:],
        "rows": _rows(batches, records, tokenizer),
    }
    path = run_dir / AUTOPSY / f"step-{step + 1}-rank-{rank}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(hide_in_texts(told), indent=2, ensure_ascii=False) + "\n")
    return path


def _first(names: list[str]) -> dict[str, Any]:
    return {"count": len(names), "names": names[:MOST_NAMES]}


def _rows(
    batches: list[dict[str, Any]],
    records: list[list[str]],
    tokenizer: PreTrainedTokenizerBase | None,
) -> list[dict[str, Any]]:
    """Tell each row by the records that are in it, and by how it begins."""
    rows = []
    for number, ids in enumerate(ids for batch in batches for ids in batch["input_ids"]):
        assert isinstance(ids, torch.Tensor)
        begins = ids[:SHOWN_TOKENS].tolist()
        text = tokenizer.decode(begins) if tokenizer is not None else None
        row = {"tokens": ids.numel(), "begins_with": text or begins}
        if number < len(records):
            row["records"] = records[number]
        rows.append(row)
    return rows[:MOST_ROWS]
