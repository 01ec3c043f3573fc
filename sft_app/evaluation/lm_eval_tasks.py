"""Tasks of EleutherAI's lm-evaluation-harness, by name, where it is installed."""

import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed

log = logging.getLogger(__name__)

PACKAGE = "lm_eval"


def check_lm_eval(tasks: Sequence[str]) -> None:
    """Raise ConfigError when tasks are named and the harness is not installed."""
    if tasks and not is_installed(PACKAGE):
        raise ConfigError(
            f"evaluation.tasks names lm_eval:{tasks[0]}, and lm-evaluation-harness is not "
            "installed: pip install 'sft-app[lm-eval]', or leave it out."
        )


def measure_lm_eval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return, by task, the metrics that the harness reports, on a model that is in memory.

    The harness reads its tasks' data itself. Raises ConfigError for a task that it does not have,
    or whose data it cannot get.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    try:
        answer = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer), tasks=list(tasks)
        )
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"evaluation.tasks: lm-evaluation-harness cannot run {', '.join(tasks)} "
            f"({' '.join(str(error).split())}); `lm_eval --tasks list` shows what it has."
        ) from error
    return {task: _numbers(metrics) for task, metrics in answer["results"].items()}


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """`acc,none` and the like, without aliases and texts."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
