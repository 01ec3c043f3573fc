"""Fair comparisons on a machine that others use too, and tables of them.

The cases of a comparison take turns, so that a busy minute hits all alike. CPU seconds of the whole
process (all threads) stand beside wall seconds: they are what a neighbour disturbs least.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

Case = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    wall_seconds: float
    """Median of the rounds."""
    cpu_seconds: float
    """Median of the rounds, all threads."""


def take_turns(cases: Mapping[str, Case], *, rounds: int) -> dict[str, Timing]:
    """Run every case once to warm up, then all of them `rounds` times in turn.

    A case that returns a Timing has timed itself: the part of it that is compared.
    """
    for case in cases.values():
        case()
    samples: dict[str, list[Timing]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            wall, cpu = time.perf_counter(), time.process_time()
            own = case()
            whole = Timing(time.perf_counter() - wall, time.process_time() - cpu)
            samples[name].append(own if isinstance(own, Timing) else whole)
    return {
        name: Timing(
            statistics.median(timing.wall_seconds for timing in taken),
            statistics.median(timing.cpu_seconds for timing in taken),
        )
        for name, taken in samples.items()
    }


def extra_peak_bytes(case: Case) -> int:
    """How far the resident memory rises above where it is now while `case` runs (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that was freed, and kept, would come for nothing
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the old peak
    before = _status("VmRSS")
    case()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "command": f"python -m tests.benchmarks.{Path(sys.argv[0]).stem}",
    }


def write_table(name: str, title: str, rows: list[dict[str, Any]], goal: str) -> None:
    """Print `rows` as Markdown, and write NAME.md and NAME.json to --out (results/ by default)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    out: Path = parser.parse_known_args()[0].out  # scripts have options of their own
    columns = list(rows[0])
    lines = [f"## {title}", "", _row(columns), _row(["---"] * len(columns))]
    lines += [_row([_cell(row.get(column)) for column in columns]) for row in rows]
    about = machine()
    facts = ", ".join(f"{key} {value}" for key, value in about.items())
    text = "\n".join([*lines, "", f"Goal: {goal}", "", f"Measured on: {facts}.", ""])
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text)
    record = {"title": title, "goal": goal, "machine": about, "rows": rows}
    (out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
