"""metrics.jsonl holds each step once, also after a crash and a resume."""

import json
from pathlib import Path

from transformers import TrainerControl, TrainerState, TrainingArguments

from sft_app.training.callbacks.metrics_file import MetricsFile


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_repeats_no_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"step": 5, "lo')
    metrics = MetricsFile(path)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(global_step=2, is_world_process_zero=True), TrainerControl()

    metrics.on_train_begin(args, state, control)
    assert steps(path) == [1, 2]

    state.global_step = 3
    metrics.on_log(args, state, control, logs={"loss": 0.5})
    metrics.on_log(args, state, control, logs={"train_runtime": 9.0})
    assert steps(path) == [1, 2, 3]

    metrics.on_log(args, state, control, logs={"eval_loss": 0.4})
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 3, "eval_loss": 0.4}
