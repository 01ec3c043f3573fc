"""trainer.profile=true leaves a trace of a few steps."""

import json

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from sft_app.training.callbacks.profiler import ProfileSteps


def test_a_trace_and_a_table_of_operators_are_written(tmp_path):
    callback = ProfileSteps(tmp_path / "profile")
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(args, state, control)
    for _ in range(8):
        torch.ones(8, 8) @ torch.ones(8, 8)
        callback.on_step_end(args, state, control)
    callback.on_train_end(args, state, control)

    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("aten::mm") == 3
    assert "aten::mm" in (tmp_path / "profile" / "operators.txt").read_text()


def test_a_run_of_few_steps_is_no_error(tmp_path):
    callback = ProfileSteps(tmp_path / "profile")
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(args, state, control)
    callback.on_step_end(args, state, control)
    callback.on_train_end(args, state, control)
