"""An adapter on its base, by PEFT: is it what was trained?"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from sft_app.records.manifest import MANIFEST, damage_of
from sft_app.records.verification import Check
from sft_app.serving.compare_logits import compare_logits, in_float32_if_small, read_expected
from sft_app.serving.expectations import PROBE
from sft_app.serving.load_adapter import load_adapter
from sft_app.serving.reader_error import in_one_line

PROBE_IDS = torch.arange(3, 35)[None]
"""Tokens [1, T] of an adapter that no run has left a probe of."""


def adapter_checks(
    adapter: Path, expectations: Path | None, *, trust_remote_code: bool = False
) -> dict[str, Check]:
    """Return what PEFT makes of the adapter: its files, its weights, the logits on its base."""
    checks: dict[str, Check] = {}
    if (adapter / MANIFEST).is_file():
        damage = damage_of(adapter)
        checks["files"] = Check(passed=damage is None, detail=damage or "as they were written")
    try:
        model = load_adapter(adapter, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a reader would run into
        return checks | {"loads": Check(passed=False, detail=in_one_line(error))}
    checks["loads"] = Check(passed=True, detail="every weight is there, and none too many")
    checks["logits"] = _logits(
        in_float32_if_small(model), adapter, expectations, trust_remote_code=trust_remote_code
    )
    return checks


def in_one(checks: dict[str, Check]) -> Check:
    """Return the first check that failed, or the last one."""
    failed = [check for check in checks.values() if not check.passed]
    return failed[0] if failed else [*checks.values()][-1]


def _logits(
    model: Any, adapter: Path, expectations: Path | None, *, trust_remote_code: bool
) -> Check:
    expected = read_expected(expectations)
    if expected is None or expectations is None:
        with torch.no_grad():
            finite = bool(torch.isfinite(model(input_ids=PROBE_IDS).logits).all())
        return Check(passed=finite, detail="finite" if finite else "not finite")
    if not (expectations / PROBE).is_file():
        return Check(passed=True, detail="not compared: no logits were kept")
    # The merged sum was rounded to what is saved; the adapter beside its base is not.
    merged = AutoConfig.from_pretrained(adapter, trust_remote_code=trust_remote_code).dtype
    exact = merged == torch.float32 and expected["computed_in"] == "float32"
    return compare_logits(model, expectations, exact=exact)
