"""Tasks of EleutherAI's lm-evaluation-harness, by name, where it is installed."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed

log = logging.getLogger(__name__)

PACKAGE = "lm_eval"


def check_lm_eval(tasks: Sequence[str]) -> None:
    """Open tasks and their data, before any weight is read.

    `tasks`: names, or paths of YAML files. Raises ConfigError when the harness is not installed,
    does not know one of them, or cannot get its data.
    """
    if tasks and not is_installed(PACKAGE):
        raise ConfigError(
            f"evaluation.tasks names lm_eval:{tasks[0]}, and lm-evaluation-harness is not "
            "installed: pip install 'sft-app[lm-eval]', or leave it out."
        )
    for task in tasks:
        try:
            _task_manager().load_task_or_group([task])
        except Exception as error:  # each task's own code runs here
            raise _refusal([task], error) from error


def measure_lm_eval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return, by task, the metrics that the harness reports, on a model that is in memory.

    The harness reads its tasks' data itself. Raises ConfigError for a task that it cannot run.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    try:
        answer = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer),
            tasks=list(tasks),
            task_manager=_task_manager(),
        )
    except (KeyError, ValueError, OSError) as error:
        raise _refusal(tasks, error) from error
    return {task: _numbers(metrics) for task, metrics in answer["results"].items()}


@cache
def _task_manager() -> Any:
    """The harness's index of its tasks, which takes seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _refusal(tasks: Sequence[str], error: Exception) -> ConfigError:
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return ConfigError(
        f"evaluation.tasks: lm-evaluation-harness cannot run {', '.join(tasks)} ({why}); "
        "`lm_eval ls tasks` shows what it has, lm_eval:/path/to/task.yaml is a task of your own, "
        "and data that it fetches must be in its cache where there is no network."
    )


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """`acc,none` and the like, without aliases and texts."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
