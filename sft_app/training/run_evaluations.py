"""What a run measures of its model: before training, while it goes, and after."""

import logging
import math
from collections.abc import Callable

import torch
from torch import nn

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.evaluation import measures_anything
from sft_app.config.schema.trainer import EvalStrategy
from sft_app.data.prepare_data import PreparedData
from sft_app.evaluation.measure import describe, evaluate, measure_heldout
from sft_app.evaluation.plan_evaluation import (
    EvaluationPlan,
    heldout_alone,
    nothing_to_measure,
    plan_evaluation,
)
from sft_app.evaluation.work_split import WorkSplit
from sft_app.records.result import Evaluation, LossMeasurement
from sft_app.training.guards.step_guard import TrainingDiverged
from sft_app.training.heldout_trainer import HeldoutMeasure
from sft_app.training.model_plan import ModelPlans
from sft_app.training.parallel.evaluation_split import evaluation_split
from sft_app.training.prepare_model import PreparedModel

log = logging.getLogger(__name__)


def plan_what_to_measure(
    config: AppConfig, plans: ModelPlans, data: PreparedData
) -> EvaluationPlan:
    """Choose conversations, documents and tasks; a warning where there is nothing to measure."""
    if not measures_anything(config.evaluation):
        return nothing_to_measure(config.evaluation, plans.tokenizer)
    measured = plan_evaluation(config, data, plans.tokenizer, plans.rope, plans.pretrained)
    if not measured:
        log.warning("There are too few conversations to hold any out: nothing is evaluated.")
    return measured


def plan_heldout(config: AppConfig, plans: ModelPlans, data: PreparedData) -> EvaluationPlan | None:
    """Choose what is measured while training goes; None: nothing is.

    Raises ConfigError where no conversation could be held out.
    """
    if config.trainer.eval_strategy is EvalStrategy.no:
        return None
    plan = heldout_alone(config.evaluation, data, plans.tokenizer)
    if not plan.heldout:
        raise ConfigError(
            f"trainer.eval_strategy={config.trainer.eval_strategy} needs held-out conversations, "
            "and data.train has too few to hold any out: set data.eval, or leave it out."
        )
    return plan


def heldout_measure(
    plan: EvaluationPlan | None,
    prepared: PreparedModel,
    config: AppConfig,
    plans: ModelPlans,
    device: torch.device,
) -> HeldoutMeasure | None:
    """Return how the trainer measures held-out loss, which is as `measure` does."""
    if plan is None:
        return None
    split = evaluation_split(prepared.context, config.trainer.tensor_parallel_size)

    def measure_now(model: nn.Module, after_batch: Callable[[], object]) -> LossMeasurement:
        with plans.precision.computing(device):
            return measure_heldout(plan, model, device, split, after_batch)

    return HeldoutMeasure(
        measure=measure_now,
        keep_best=config.trainer.load_best_model_at_end,
        patience=config.trainer.early_stopping_patience,
    )


def measure(
    model: nn.Module,
    when: str,
    measured: EvaluationPlan,
    plans: ModelPlans,
    device: torch.device,
    split: WorkSplit,
) -> Evaluation:
    """Evaluate as a training step computes, and say what came out."""
    with plans.precision.computing(device):
        evaluation = evaluate(measured, model, device, split)
    for what, how_much in describe(evaluation):
        log.info("%-15s %s %s training", what, how_much, when)
    if evaluation.heldout and not math.isfinite(evaluation.heldout.loss):
        raise TrainingDiverged(
            f"the held-out loss {when} training is {evaluation.heldout.loss}: the model "
            "computes no numbers. Look at its weights, at model.dtype, and at the held-out records."
        )
    return evaluation
