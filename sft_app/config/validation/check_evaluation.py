"""What the evaluation settings say that cannot work, known without a model."""

from difflib import get_close_matches

from sft_app.common.errors import ConfigError
from sft_app.config.locations import check_file
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.evaluation import (
    LM_EVAL_PREFIX,
    TASK_NAMES,
    EvaluationConfig,
    Scoring,
    measures_anything,
)
from sft_app.config.schema.sweep import BestBy
from sft_app.config.schema.trainer import Parallelism


def check_evaluation(config: AppConfig) -> None:
    """Raise ConfigError for the first setting of `evaluation` that cannot work."""
    evaluation = config.evaluation
    _check_tasks(evaluation)
    if evaluation.documents is not None:
        for reference in _references(evaluation.documents):
            check_file("evaluation.documents", reference)
    _check_generation(config)
    _check_best_by(config)
    none_held_out = config.data.eval is None and config.data.eval_examples == 0
    something_else = evaluation.documents is not None or evaluation.tasks
    if measures_anything(evaluation) and none_held_out and not something_else:
        raise ConfigError(
            "evaluation needs held-out conversations, and data.eval_examples=0 with no data.eval "
            "leaves none: set data.eval=/some/file, data.eval_examples=200, or evaluation=none."
        )


def _check_tasks(evaluation: EvaluationConfig) -> None:
    for task in evaluation.tasks:
        if task in TASK_NAMES or task.startswith(LM_EVAL_PREFIX):
            continue
        near = get_close_matches(task, TASK_NAMES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"evaluation.tasks: {task} is not known.{hint} Allowed: {', '.join(TASK_NAMES)}, and "
            f"{LM_EVAL_PREFIX}NAME for a task of lm-evaluation-harness."
        )


def _check_best_by(config: AppConfig) -> None:
    best_by, evaluation = config.sweep.best_by, config.evaluation
    scored = any(task in TASK_NAMES for task in evaluation.tasks)
    if best_by is not BestBy.perplexity and not (evaluation.after and scored):
        raise ConfigError(
            f"sweep.best_by={best_by} compares scores of tasks after training, and none are "
            "measured: set evaluation=default or evaluation.tasks=[passkey,niah_single], or leave "
            "sweep.best_by out."
        )


def _check_generation(config: AppConfig) -> None:
    """Generation needs whole models and rows on every rank."""
    evaluation, trainer = config.evaluation, config.trainer
    if not measures_anything(evaluation) or not evaluation.tasks:
        return
    splits = {
        "trainer.parallelism=fsdp": trainer.parallelism is Parallelism.fsdp,
        f"trainer.context_parallel_size={trainer.context_parallel_size}": (
            trainer.context_parallel_size > 1
        ),
        f"trainer.tensor_parallel_size={trainer.tensor_parallel_size}": (
            trainer.tensor_parallel_size > 1
        ),
    }
    split = next((key for key, holds in splits.items() if holds), None)
    if split is None:
        return
    if evaluation.scoring is Scoring.generate and config.adapter.method is not AdapterMethod.qlora:
        raise ConfigError(
            f"evaluation.scoring=generate does not go with {split}: no rank has the whole model; "
            "set evaluation.scoring=forced, or measure the saved model with sft-eval."
        )
    if any(task.startswith(LM_EVAL_PREFIX) for task in evaluation.tasks):
        raise ConfigError(
            f"evaluation.tasks with {LM_EVAL_PREFIX}NAME does not go with {split}: no rank has the "
            "whole model; measure the saved model with sft-eval."
        )


def _references(value: object) -> list[str]:
    """The paths in `evaluation.documents`: one, or a list."""
    entries = value if isinstance(value, list) else [value]
    if any(isinstance(entry, dict) and set(entry) - {"path"} for entry in entries):
        raise ConfigError(
            f"evaluation.documents={value!r}: each document is measured once, and an entry takes "
            "path alone."
        )
    paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
    if not paths or not all(isinstance(path, str) for path in paths):
        raise ConfigError(
            f"evaluation.documents={value!r} is not a path: give a file, a folder, a glob, "
            "pkg://package/folder, or a list of these."
        )
    return [str(path) for path in paths]
