"""adapter=lora from end to end: trained, resumed, and merged into a model that loads plainly."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.records.result import Status, read_result

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_lora_trains_resumes_and_merges(
    run_command: Run, tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    command = [
        "sft-train",
        f"model.name_or_path={tiny_model}",
        f"data.train={chat_file}",
        "data.eval_examples=8",
        "context_length=128",
        "adapter=lora",
        "adapter.rank=4",
        "trainer.gradient_accumulation_steps=2",
        "trainer.learning_rate=3e-3",
        "trainer.lr_scheduler_type=constant",
        "trainer.save_steps=5",
        "trainer.profile=true",
        "launch.device=cpu",
    ]
    cache = {"SFT_CACHE_DIR": str(tmp_path / "cache")}
    first = run_command(
        *command, "trainer.max_steps=5", "hydra.run.dir=first", cwd=tmp_path, env=cache
    )
    assert first.returncode == 0, first.stderr
    second = run_command(
        *command,
        "trainer.max_steps=7",
        f"trainer.resume_from_checkpoint={tmp_path / 'first'}",
        "trainer.resume_anyway=true",
        "hydra.run.dir=second",
        cwd=tmp_path,
        env=cache,
    )
    assert second.returncode == 0, second.stderr

    result = read_result(tmp_path / "second")
    assert result.status is Status.completed
    assert result.steps == 7
    assert result.resumed_from is not None
    assert result.num_parameters is not None
    assert result.num_trainable_parameters is not None
    assert result.num_trainable_parameters < result.num_parameters
    assert result.measured_matmul_utilisation is not None
    model = tmp_path / "second" / "model"
    assert not list(model.glob("adapter*"))
    assert json.loads((model / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    log = (tmp_path / "first" / "train.log").read_text()
    assert "attention       sft_packed (one SDPA call per document)" in log
    assert "loss            chunked linear cross-entropy" in log
    assert "adapter         LoRA of rank 4" in log
    assert (tmp_path / "first" / "profile" / "trace.json").is_file()
