"""What a model is measured on, chosen before its weights are read: the same before and after."""

import logging
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from sft_app.common.counted import counted
from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.evaluation import (
    DEFAULT_TASKS,
    LM_EVAL_PREFIX,
    TASK_NAMES,
    EvaluationConfig,
)
from sft_app.data.prepare_data import PreparedData
from sft_app.evaluation.choose_lengths import choose_lengths
from sft_app.evaluation.language.heldout_loss import limit_tokens
from sft_app.evaluation.language.long_documents import (
    LongDocuments,
    long_documents,
    read_documents,
)
from sft_app.evaluation.lm_eval_tasks import check_lm_eval
from sft_app.evaluation.tasks.assemble import Material
from sft_app.evaluation.tasks.build import TaskSamples
from sft_app.evaluation.tasks.encoder import Encoder
from sft_app.evaluation.tasks.haystack import Haystack, document_haystack, noise_haystack
from sft_app.evaluation.tasks.prompt_frame import prompt_frame
from sft_app.loader.rope.rope_plan import RopePlan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """Holds everything that is measured, and how."""

    settings: EvaluationConfig
    tokenizer: PreTrainedTokenizerBase
    heldout: list[dict[str, Tensor]]
    """Conversations, fitted to the context length: the loss on what the assistant says."""
    long: LongDocuments
    """Perplexity by context length: all tokens of the same documents, whatever was trained."""
    tasks: TaskSamples | None
    """RULER-style tasks; None: there are none."""
    lm_eval: tuple[str, ...]
    """Names of tasks of lm-evaluation-harness."""

    def __bool__(self) -> bool:
        """Tell whether there is anything to measure."""
        pairs = self.tasks.pairs() if self.tasks else []
        return bool(self.heldout or self.long.documents or pairs or self.lm_eval)


def plan_evaluation(
    config: AppConfig,
    data: PreparedData | None,
    tokenizer: PreTrainedTokenizerBase,
    rope: RopePlan,
    hf_config: PretrainedConfig,
) -> EvaluationPlan:
    """Choose what to measure; ConfigError, before weights are read, for what cannot be measured.

    `data`: None where only a checkpoint is at hand, and no conversations.
    """
    settings = config.evaluation
    named = list(dict.fromkeys(settings.tasks))
    own_tasks = [task for task in named if not task.startswith(LM_EVAL_PREFIX)]
    others = tuple(
        task.removeprefix(LM_EVAL_PREFIX) for task in named if task.startswith(LM_EVAL_PREFIX)
    )
    check_lm_eval(others)
    lengths = choose_lengths(config, rope, hf_config)
    tasks = None
    if own_tasks and lengths.values:
        material = Material(
            Encoder(tokenizer),
            prompt_frame(tokenizer),
            _haystack(config, tokenizer, lengths.values[-1]),
        )
        tasks = TaskSamples(
            material, own_tasks, lengths.values, samples=settings.samples, seed=config.seed
        )
        chosen = tuple(own_tasks) != DEFAULT_TASKS and set(own_tasks) != set(TASK_NAMES)
        tasks.leave_out_unfit(strict=lengths.asked_for and chosen)
        if lengths.asked_for and not tasks.pairs():
            raise ConfigError(
                f"evaluation.lengths={list(lengths.values)}: none of the tasks fits with this "
                "model's tokenizer; set longer lengths, or evaluation.tasks=[]."
            )
        log.info(
            "evaluation      %s at %s tokens, %s each, in %s, hidden in %s",
            ", ".join(own_tasks),
            ", ".join(f"{length:,}" for length in lengths.values),
            counted(settings.samples, "sample"),
            material.frame.name,
            material.haystack.name,
        )
    return EvaluationPlan(
        settings=settings,
        tokenizer=tokenizer,
        heldout=held_out_conversations(settings, data),
        long=long_documents(
            config, tokenizer, lengths, from_conversations=data is not None, needed=not named
        ),
        tasks=tasks,
        lm_eval=others,
    )


def nothing_to_measure(
    settings: EvaluationConfig, tokenizer: PreTrainedTokenizerBase
) -> EvaluationPlan:
    """Return the plan of a run that does not evaluate."""
    return EvaluationPlan(
        settings=settings,
        tokenizer=tokenizer,
        heldout=[],
        long=LongDocuments(),
        tasks=None,
        lm_eval=(),
    )


def heldout_alone(
    settings: EvaluationConfig, data: PreparedData, tokenizer: PreTrainedTokenizerBase
) -> EvaluationPlan:
    """Return the plan of what is measured while training goes: the held-out loss."""
    heldout = held_out_conversations(settings, data)
    return replace(nothing_to_measure(settings, tokenizer), heldout=heldout)


def held_out_conversations(
    settings: EvaluationConfig, data: PreparedData | None
) -> list[dict[str, Tensor]]:
    """Return the held-out conversations that are measured, fitted to the context."""
    if data is None or data.eval is None:
        return []
    count = len(data.eval.lengths)
    if settings.max_examples is not None:
        count = min(count, settings.max_examples)
    return limit_tokens([data.eval[i] for i in range(count)], settings.max_tokens)


def _haystack(config: AppConfig, tokenizer: PreTrainedTokenizerBase, longest: int) -> Haystack:
    documents = config.evaluation.documents
    if documents is None:
        return noise_haystack(tokenizer, longest, config.seed)
    return document_haystack(tokenizer, read_documents(documents), longest, str(documents))
