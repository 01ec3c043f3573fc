"""What `sft-train` itself reaches on one GPU: tokens a second, utilisation and memory of its runs.

    python -m tests.benchmarks.h100_app --out DIR           on the GPU, in 9 minutes (--seconds N)
    python -m tests.benchmarks.h100_app --out DIR --smoke   tiny shapes on the CPU: does it run?

Each row is one command of the application with its defaults (weights in float32 under bfloat16
autocast, packed rows, its own choice of attention and loss head), the last ones with their layers
compiled, on random weights of a published shape and random documents, all of whose tokens are
supervised: neither changes the speed. Figures are read from the run's metrics.jsonl, its first
steps left out. Goals for one H100 with 80 GB stand in the last column; those of Qwen3-0.6B stand
beside what prime-rl publishes (16.8% and 26,000 tokens a second at 8k). A run that fails says so in
its row and leaves the others alone.
"""

import argparse
import importlib.metadata
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sft_app.records.result import read_result
from sft_app.records.run_files import METRICS
from sft_app.records.step_log import StepLine, parse_line
from tests.data.tokenizers_for_tests import byte_level

GIB = 1 << 30
WARM_UP = 3
"""Steps that are left out."""

QWEN3_0_6B = {
    "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA3_8B = {
    "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One command, and what is hoped for."""

    name: str
    model: str
    length: int
    rows: int
    """In an optimizer step."""
    goal: str
    settings: tuple[str, ...] = ()
    on_gpu: tuple[str, ...] = ()
    """What a CPU refuses."""


COMPILED = ("trainer.torch_compile=true",)
RUNS = (
    Run("Qwen3-0.6B at 8k", "qwen3_0_6b", 8192, 8, "0.45 of datasheet, 69000 tokens/s"),
    Run("Qwen3-0.6B at 16k", "qwen3_0_6b", 16_384, 4, "48000 tokens/s"),
    Run("Qwen3-0.6B at 65k", "qwen3_0_6b", 65_536, 1, "20 GiB",
        ("trainer.gradient_checkpointing=true",),
        ("trainer.gradient_checkpointing_kwargs={offload: true}",)),
    Run("8B with LoRA at 4k", "llama3_8b", 4096, 8, "13000 tokens/s", ("adapter=lora",)),
    Run("Qwen3-0.6B at 8k, compiled", "qwen3_0_6b", 8192, 8, "", COMPILED),
    Run("8B with LoRA at 4k, compiled", "llama3_8b", 4096, 8, "", ("adapter=lora", *COMPILED)),
    Run("Qwen3-0.6B at 16k, compiled", "qwen3_0_6b", 16_384, 4, "", COMPILED),
)  # fmt: skip
SHAPES = {"qwen3_0_6b": QWEN3_0_6B, "llama3_8b": LLAMA3_8B}


def make_model(directory: Path, shape: dict[str, Any], *, smoke: bool) -> None:
    """Save random weights of this shape in bfloat16, with a tokenizer of bytes."""
    tokenizer = byte_level()
    changes = TINY if smoke else {}
    config = AutoConfig.for_model(
        **shape | changes, max_position_embeddings=131_072, dtype=torch.bfloat16,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    with torch.device("cpu" if smoke else "cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="4GB")
    tokenizer.save_pretrained(directory)


def write_document(file: Path, letters: int) -> None:
    """Write one text, which is cut into rows without padding; nearly every letter is a token."""
    chance = random.Random(0)
    text = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=letters))
    file.write_text(json.dumps({"text": text}) + "\n")


class Bench:
    """The folder of the models, texts and runs, and the table of what was measured."""

    def __init__(self, out: Path, *, smoke: bool, deadline: float) -> None:
        self.out, self.smoke, self.deadline = out.resolve(), smoke, deadline
        self.steps = 6 if smoke else 12

    def row(self, run: Run) -> dict[str, Any]:
        """Train, and return what the run has measured, or why it has not."""
        started = time.monotonic()
        try:
            row = self.measured(run)
        except Exception as error:  # whatever it is, the other rows are worth having
            said = str(error).strip().splitlines() or [""]
            row = {"note": f"{type(error).__name__}: {said[-1][:200]}"}
        return {
            "what": run.name, **row, "part s": round(time.monotonic() - started), "goal": run.goal,
        }  # fmt: skip

    def measured(self, run: Run) -> dict[str, Any]:
        """Raises RuntimeError with the last line of a command that fails."""
        length = 128 if self.smoke else run.length
        model, text = self.out / run.model, self.out / f"{length}.jsonl"
        if not model.is_dir():
            make_model(model, SHAPES[run.model], smoke=self.smoke)
        write_document(text, (self.steps + 2) * run.rows * length)
        folder = self.out / run.name.replace(",", "").replace(" ", "_")
        command = [
            sys.executable, "-m", "sft_app.train", f"model.name_or_path={model}",
            f"data.train={text}", "data.format=text", "data.eval_examples=0",
            f"context_length={length}", f"trainer.gradient_accumulation_steps={run.rows}",
            f"trainer.max_steps={self.steps}", "trainer.save_strategy=no", "evaluation=none",
            "evaluation.verify_saved=false", "trainer.report_to=[]", "trainer.warmup_steps=0",
            f"launch.device={'cpu' if self.smoke else 'cuda'}", *run.settings,
            *(() if self.smoke else run.on_gpu),
            f"hydra.run.dir={folder}",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False,
            timeout=max(1.0, self.deadline - time.monotonic()),
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "screen.txt").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or done.stdout.strip() or "nothing was said")
        return self.figures(folder, length)

    def figures(self, folder: Path, length: int) -> dict[str, Any]:
        """Read the medians of the steps after the first ones."""
        found = (parse_line(line) for line in (folder / METRICS).read_text().splitlines())
        lines = [line for line in found if line and line.step > WARM_UP and line.tokens_per_second]
        result = read_result(folder)
        assert result is not None and lines, "a completed run has a result and a line a step"
        peak = result.peak_memory_bytes.get("device")
        return {
            "tokens": length,
            "tokens/s": round(median(lines, "tokens_per_second") or 0),
            "of datasheet": median(lines, "mfu"),
            "of measured matmul": median(lines, "mfu_of_measured_matmul"),
            "peak GiB": None if peak is None else peak / GIB,
            "load s": round(result.seconds.get("load", 0)),
        }

    def write(self, rows: list[dict[str, Any]]) -> str:
        """Write one_gpu_app.md and .json."""
        columns = [*dict.fromkeys(key for row in rows for key in row if key != "goal"), "goal"]
        lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
        for row in rows:
            cells = [row.get(column) for column in columns]
            shown = [f"{c:.3g}" if isinstance(c, float) else str(c or "") for c in cells]
            lines.append(f"| {' | '.join(shown)} |")
        device = "CPU" if self.smoke else torch.cuda.get_device_name()
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        about = {"device": device, **versions}
        text = "\n".join(["## One GPU, by sft-train", "", *lines, "", f"Measured on: {about}.", ""])
        (self.out / "one_gpu_app.md").write_text(text)
        record = {"machine": about, "rows": rows}
        (self.out / "one_gpu_app.json").write_text(json.dumps(record, indent=2) + "\n")
        return text


def median(lines: list[StepLine], field: str) -> float | None:
    values = [value for line in lines if (value := getattr(line, field)) is not None]
    return statistics.median(values) if values else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--seconds", type=float, default=540.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.out, smoke=options.smoke, deadline=time.monotonic() + options.seconds)
    rows: list[dict[str, Any]] = []
    text = ""
    for run in RUNS:
        rows.append(bench.row(run))
        print(json.dumps(rows[-1]), flush=True)
        text = bench.write(rows)  # stays if the next run takes the time that is left
    print(f"\n{text}")


if __name__ == "__main__":
    main()
