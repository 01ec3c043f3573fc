"""The script for one GPU runs through, on tiny shapes, where there is none."""

import json
import os
import subprocess
import sys
import zipfile
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
    assert len(rows) == 7 and not [row for row in rows if "note" in row]
    assert all(row["tokens/s"] > 0 and row["of measured matmul"] > 0 for row in rows)


@pytest.mark.slow
def test_one_call_prints_the_tables_of_both(tmp_path: Path) -> None:
    """With a wheel of nothing: all that it needs is here."""
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "nothing-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in NOTHING.items():
            wheel.writestr(f"nothing-1.0.dist-info/{name}", text)
    script = Path(__file__).with_name("one_gpu_call.sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    answer = subprocess.run(
        ["bash", str(script), "run", str(wheels), str(out)], check=True, timeout=600,
        env={**os.environ, "PATH": path, "SMOKE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert "## One GPU, by sft-train" in answer.stdout and "## One GPU\n" in answer.stdout
    assert "needs a CUDA device" in answer.stdout


NOTHING = {
    "METADATA": "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}


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
