"""The script for one GPU runs through, on tiny shapes, where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_gpu_script_runs_through(tmp_path: Path) -> None:
    script = Path(__file__).with_name("h100.py")
    subprocess.run(
        [sys.executable, str(script), "--smoke", "--out", str(tmp_path)], check=True, timeout=300
    )
    record = json.loads((tmp_path / "one_gpu.json").read_text())
    assert [row["what"].split(",")[0] for row in record["rows"]] == [
        "1B",
        "8B",
        "one_call_per_document against a dense mask",
        "longest context",
        "longest context",
    ]
    assert record["rows"][3]["tokens"] == 512
