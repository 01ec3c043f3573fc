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
    rows = {row["what"]: row for row in record["rows"]}
    assert not [row for row in rows.values() if "Error" in row.get("note", "")]
    assert {"1B, all parameters", "8B, LoRA", "documents of 1024 against a dense mask"} < set(rows)
    assert rows["loss head chunked"]["gradient off by"] < 1e-5
    assert rows["1B, all parameters, layers compiled"]["tokens/s"] > 0
    for trained in ("1B, all parameters", "8B, LoRA"):
        assert rows[f"longest context, {trained}"]["tokens"] == 512
