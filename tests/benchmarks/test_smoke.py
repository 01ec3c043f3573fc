"""The script for one GPU runs through, on tiny shapes, where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT


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


@pytest.mark.slow
def test_the_gpu_script_of_whole_runs_reads_what_each_has_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.h100_app", "--smoke", "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=400, cwd=ROOT)
    rows = json.loads((tmp_path / "one_gpu_app.json").read_text())["rows"]
    assert len(rows) == 4 and not [row for row in rows if "note" in row]
    assert all(row["tokens/s"] > 0 and row["of measured matmul"] > 0 for row in rows)


@pytest.mark.slow
def test_the_leaderboard_script_goes_on_until_its_table_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("h100_leaderboard.py")), "--smoke"]
    command += ["--out", str(tmp_path)]
    subprocess.run([*command, "--seconds", "60"], check=True, timeout=300)  # a part, or two
    subprocess.run(command, check=True, timeout=600)
    rows = json.loads((tmp_path / "leaderboard.json").read_text())["rows"]
    assert len(rows) == 6 and not [row for row in rows if "note" in row]
    assert {row["seed"] for row in rows if row["tokens"]} == {1, 2}
    assert json.loads((tmp_path / "texts" / "texts.json").read_text())["licences"]
