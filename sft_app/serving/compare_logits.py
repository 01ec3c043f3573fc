"""The logits of a loaded model beside those that training kept of the model in memory."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sft_app.records.verification import Check
from sft_app.serving.expectations import EXPECTED, PROBE

FLOAT32_BELOW = 3e9
"""Parameters: what is larger is compared in its own dtype, for the host's memory."""
TOLERANCE_FLOAT32, TOLERANCE_16_BITS = 1e-3, 5e-2
"""Of the largest logit: by how much any logit may differ."""


def read_expected(expectations: Path | None) -> dict[str, Any] | None:
    """Return what training wrote down; None where it wrote nothing."""
    if expectations is None or not (expectations / EXPECTED).is_file():
        return None
    expected: dict[str, Any] = json.loads((expectations / EXPECTED).read_text(encoding="utf-8"))
    return expected


def in_float32_if_small(model: Any) -> Any:
    """Return the model in float32 where the host has room for it."""
    small = sum(parameter.numel() for parameter in model.parameters()) < FLOAT32_BELOW
    return model.float() if small else model


def compare_logits(model: Any, expectations: Path, *, exact: bool) -> Check:
    """Compare with the probe's logits; `exact`: all that was computed and saved is float32."""
    allowed = TOLERANCE_FLOAT32 if exact else TOLERANCE_16_BITS
    probe = load_file(expectations / PROBE)
    with torch.no_grad():
        logits = model(input_ids=probe["input_ids"], use_cache=False).logits.float()
    if logits.shape != probe["logits"].shape:
        return Check(passed=False, detail=f"{logits.shape[-1]} logits a token")
    largest = float(probe["logits"].abs().max())
    difference = float((logits - probe["logits"]).abs().max()) / max(largest, 1e-6)
    text = f"differ by {difference:.1e} of the largest, {allowed:.0e} allowed"
    return Check(passed=difference <= allowed, detail=text)
