"""Run directories as training leaves them, written with the real records writers."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from sft_app.records.result import (
    Evaluation,
    LossMeasurement,
    RunError,
    RunResult,
    Status,
    TokenCounts,
)
from sft_app.records.run_files import CONFIG, METRICS, PLAN


def measured(loss: float, tokens: int = 51_200) -> LossMeasurement:
    return LossMeasurement(loss=loss, perplexity=math.exp(loss), tokens=tokens, examples=40)


def evaluation(heldout: float, by_length: dict[int, float] | None = None) -> Evaluation:
    lengths = (by_length or {}).items()
    return Evaluation(
        heldout=measured(heldout),
        by_length={str(length): measured(loss, length * 16) for length, loss in lengths},
    )


def config_of(
    *, context_length: int = 2048, method: str = "linear", seed: int = 42, **other: Any
) -> dict[str, Any]:
    """A resolved configuration, in the shape of sft_app.config; `other`: more trainer settings."""
    return {
        "context_length": context_length,
        "seed": seed,
        "model": {"name_or_path": "/models/SmolLM2-135M-Instruct", "dtype": "auto"},
        "tokenizer": {"pad_token": "auto", "model_max_length": context_length},
        "rope": {"method": method, "factor": None},
        "data": {"train": "chat.json", "overlong": "split", "packing": "best_fit"},
        "trainer": {"learning_rate": 2e-05, "max_steps": 40, **other},
    }


def plan_of(context_length: int = 2048) -> dict[str, Any]:
    return {
        "rope": {
            "method": "linear",
            "factor": 4.0,
            "original_context_length": 512,
            "reason": f"{context_length} exceeds the model's own 512: ceil(L / L0) = 4",
        },
        "tokenizer": {"pad_token": "<|im_end|>", "pad_token_id": 2, "padding_side": "right"},
        "data": {
            "records": 17_671,
            "skipped": {"empty": 126, "one message only": 143, "roles do not alternate": 86},
            "sources": [{"path": "chat.json", "records": 17_671}],
        },
        "memory": {"weights_bytes": 538_060_032, "estimate_seconds": 312.5},
    }


def metrics_of(steps: int = 60, start: float = 2.8, end: float = 1.9) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, steps + 1):
        part = step / steps
        wobble = 0.12 * math.sin(37.0 * step) * math.cos(11.0 * step)
        rows.append(
            {
                "step": step,
                "epoch": part,
                "loss": end + (start - end) * math.exp(-4 * part) + wobble,
                "learning_rate": 2e-5 * min(1.0, 20 * part) * (1 + math.cos(math.pi * part)) / 2,
                "grad_norm": 1.1 + wobble,
                "tokens_per_second": 2_400 + 200 * wobble,
                "total_tokens": step * 8192,
                "seconds": step * 3.4,
                "peak_memory_bytes": int(3.1e9),
            }
        )
    return rows


def result_of(
    *,
    status: Status = Status.completed,
    context_length: int = 2048,
    method: str = "linear",
    seed: int = 42,
    before: Evaluation | None = None,
    after: Evaluation | None = None,
    error: RunError | None = None,
    **other: Any,
) -> RunResult:
    fields: dict[str, Any] = {
        "status": status,
        "started_at": "2026-11-21T21:00:00+00:00",
        "finished_at": "2026-11-21T21:05:12+00:00",
        "config_hash": "9f2c" * 16,
        "context_length": context_length,
        "model": "/models/SmolLM2-135M-Instruct",
        "seed": seed,
        "rope_method": method,
        "rope_factor": context_length / 512,
        "seconds": {
            "load": 9.1, "data": 14.0, "evaluate_before": 20.5, "train": 204.0,
            "evaluate_after": 20.1, "save": 2.2, "total": 273.4,
        },
        "device": "cpu",
        "num_parameters": 134_515_008,
        "num_trainable_parameters": 134_515_008,
        "steps": 60,
        "epochs": 1.0,
        "tokens": TokenCounts(total=491_520, supervised=301_112, padding=2_114),
        "tokens_per_second": 2_405.3,
        "peak_memory_bytes": {"host": 3_412_000_000},
        "train_loss_first": 2.81,
        "train_loss_last": 1.93,
        "evaluation_before": before,
        "evaluation_after": after,
        "versions": {"python": "3.11.15", "torch": "2.13.0", "transformers": "5.23.0"},
        "git_revision": "00aa002",
        "error": error,
    }  # fmt: skip
    return RunResult(**{**fields, **other})


def write_run(
    directory: Path,
    *,
    result: RunResult | None = None,
    config: dict[str, Any] | None = None,
    plan: dict[str, Any] | None = None,
    metrics: list[dict[str, Any]] | None = None,
    overrides: list[str] | None = None,
) -> Path:
    """Each file is written when it is given."""
    directory.mkdir(parents=True, exist_ok=True)
    if result is not None:
        result.write(directory)
    if config is not None:
        (directory / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    if plan is not None:
        (directory / PLAN).write_text(json.dumps(plan))
    if metrics is not None:
        (directory / METRICS).write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if overrides is not None:
        (directory / ".hydra").mkdir(exist_ok=True)
        (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    return directory


def completed_run_in(directory: Path) -> Path:
    return write_run(
        directory,
        result=result_of(
            before=evaluation(2.60, {512: 2.71, 1024: 3.40, 2048: 4.62}),
            after=evaluation(1.98, {512: 2.52, 1024: 2.49, 2048: 2.47}),
        ),
        config=config_of(),
        plan=plan_of(),
        metrics=metrics_of(),
        overrides=["context_length=2048", "rope=linear"],
    )


ORIGINAL_LENGTH = 4096
EVALUATION_LENGTHS = (2048, 4096, 8192, 16384, 32768)


def write_sweep(
    directory: Path,
    *,
    lengths: tuple[int, ...] = (8192, 16384, 32768),
    methods: tuple[str, ...] = ("none", "linear", "yarn"),
    seeds: tuple[int, ...] = (1,),
    steps: int = 40,
    **trainer: Any,
) -> Path:
    """A sweep that went well, with the losses one would expect: the further a model is stretched,
    the worse before training; `none` collapses beyond the original context; yarn is best."""
    for length in lengths:
        for method in methods:
            for seed in seeds:
                name = f"context_length-{length}_rope-{method}_seed-{seed}"
                write_cell(
                    directory / name,
                    length=length,
                    method=method,
                    seed=seed,
                    steps=steps,
                    **trainer,
                )
    return directory


def write_cell(
    directory: Path,
    *,
    length: int = 8192,
    method: str = "yarn",
    seed: int = 1,
    steps: int = 40,
    bonus: float = 0.0,
    world_size: int = 8,
    **trainer: Any,
) -> Path:
    """A completed cell; `bonus`: how much lower its losses are."""
    loss = {"none": 2.30, "linear": 2.10, "yarn": 2.05}.get(method, 2.15) - bonus + 0.004 * seed
    shock = {"none": 1.5, "linear": 0.5, "yarn": 0.12}.get(method, 0.3)
    before, after = {}, {}
    for evaluated in EVALUATION_LENGTHS:
        beyond = max(0.0, math.log2(evaluated / ORIGINAL_LENGTH))
        untrained = max(0.0, math.log2(evaluated / length))
        closer = 0.05 * math.log2(evaluated / 2048)
        before[evaluated] = loss + 0.25 + shock * (beyond if method == "none" else 1) - closer
        after[evaluated] = loss - closer + shock * untrained
    result = result_of(
        context_length=length, method=method, seed=seed, steps=steps, world_size=world_size,
        device="NVIDIA H100 80GB HBM3", rope_factor=length / ORIGINAL_LENGTH,
        before=evaluation(loss + 0.4 + shock / 3, before),
        after=evaluation(loss - 0.1, after),
        tokens_per_second=world_size * 24_000 / (1 + length / 30_000) + 150 * seed,
        peak_memory_bytes={"host": int(9e9), "device": int((22 + length / 800) * 2**30)},
        seconds={"load": 31.0, "train": 3100 + length / 30, "total": 3400 + length / 25},
    )  # fmt: skip
    config = config_of(context_length=length, method=method, seed=seed, **trainer)
    metrics = metrics_of(steps, start=loss + 0.5 + shock / 2, end=loss - 0.05)
    overrides = [f"context_length={length}", f"rope={method}", f"seed={seed}"]
    return write_run(directory, result=result, config=config, metrics=metrics, overrides=overrides)


def write_failed_cell(
    directory: Path,
    *,
    length: int = 65536,
    method: str = "linear",
    status: Status = Status.out_of_memory,
    error: RunError | None = None,
) -> Path:
    error = error or RunError(
        type="OutOfMemoryError",
        message=f"CUDA out of memory. Tried to allocate {length / 4096:.2f} GiB.",
        rank=3,
        traceback="Traceback (most recent call last):\n  File worker.py, line 41\nOutOfMemoryError",
    )
    result = result_of(
        status=status, context_length=length, method=method, seed=1, steps=0, error=error,
        tokens_per_second=None, train_loss_first=None, train_loss_last=None, world_size=8,
        device="NVIDIA H100 80GB HBM3", seconds={"total": 95.0},
    )  # fmt: skip
    config = config_of(context_length=length, method=method, seed=1)
    return write_run(directory, result=result, config=config)
