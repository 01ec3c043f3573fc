"""What the parent says when a job has ended."""

from pathlib import Path

import pytest

from sft_app.launch.job.messages import closing, sweep_job_closing
from sft_app.records.result import RunResult, Status
from sft_app.records.verification import Check, Verification


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Verification(passed=False, checks={"logits": Check(passed=False, detail="differ")}), True),
        (Verification(passed=True, checks={"logits": Check(passed=True, detail="same")}), False),
        (None, False),
    ],
)
def test_a_complete_run_whose_model_is_another_one_does_not_end_as_if_all_were_well(
    tmp_path: Path, verdict: Verification | None, told: bool
) -> None:
    """It was said once, among the lines of the training, and by no line of a sweep."""
    result = RunResult(
        status=Status.completed, started_at="2026-01-01T00:00:00+00:00", config_hash="a", seed=1,
        context_length=64, model="m", seconds={"total": 1.0}, verification=verdict,
    )  # fmt: skip
    for text in (closing(result, tmp_path), sweep_job_closing(result, "a")):
        assert ("NOT what was trained: logits: differ" in text) == told
