"""The comparison with other trainers: what it needs, and what it sees of a training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import bench_peers
from tests.benchmarks.bench_peers import MARKS, Run, row

A_TRAINING = """
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

model = LlamaForCausalLM(LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8,
                                     num_hidden_layers=1, num_attention_heads=1))
rows = [{"input_ids": [1, 2, 3, 4], "labels": [1, -100, 3, 4]}] * 3
args = TrainingArguments("out", use_cpu=True, per_device_train_batch_size=1, logging_steps=1,
                         save_strategy="no", report_to=[], num_train_epochs=1)
Trainer(model=model, args=args, train_dataset=Dataset.from_list(rows)).train()
"""


def test_without_environments_it_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_peers"])
    bench_peers.main()
    assert capsys.readouterr().out.startswith("Needs a folder with an environment")


def test_a_training_is_marked_from_inside_its_process(tmp_path: Path) -> None:
    marks = tmp_path / "marks.json"
    own = {"PYTHONPATH": str(MARKS), "PEERS_MARKS": str(marks), "PEERS_ROOT": str(os.getpid())}
    subprocess.run(
        [sys.executable, "-c", A_TRAINING], cwd=tmp_path, env=os.environ | own, check=True
    )
    record = json.loads(marks.read_text())
    assert (record["steps"], record["supervised"], len(record["losses"])) == (3, 6, 3)
    assert record["startup_cpu"] > 0 and record["training_cpu"] > 0


def test_a_row_has_the_median_and_its_range() -> None:
    runs = [Run(5.0, seconds, 30.0, 900.0, 4, 1000, [9.0, 8.0]) for seconds in (2.0, 5.0, 4.0)]
    shown = row("a trainer", "1.0", runs, best=125.0)
    assert shown["supervised tokens per training CPU s"] == 250
    assert shown["from ... to"] == "200 ... 500" and shown["of the best peer"] == 2
