"""One evaluation of one model: everything in the plan, in one shape."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sft_app.common.counted import counted
from sft_app.config.schema.evaluation import Scoring
from sft_app.evaluation.language.by_length import document_losses, mean_loss, measure_by_length
from sft_app.evaluation.language.by_position import loss_by_position
from sft_app.evaluation.language.heldout_loss import measure_loss
from sft_app.evaluation.language.longppl import measure_longppl
from sft_app.evaluation.lm_eval_tasks import measure_lm_eval
from sft_app.evaluation.plan_evaluation import EvaluationPlan
from sft_app.evaluation.scoring.effective_length import effective_lengths
from sft_app.evaluation.scoring.forced import forced_scores
from sft_app.evaluation.scoring.generate import generated_scores
from sft_app.evaluation.tasks.build import TaskSamples
from sft_app.evaluation.tasks.exercise import Sample
from sft_app.evaluation.token_reader import TokenReader, inner_model
from sft_app.evaluation.work_split import WorkSplit
from sft_app.records.result import Evaluation, LossMeasurement, TaskScore

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
"""The scores stand together in a line at the end; what takes long says how far it is."""


def evaluate(
    plan: EvaluationPlan, model: nn.Module, device: torch.device, split: WorkSplit
) -> Evaluation:
    """Measure `model`; a collective: every rank calls it, and all get the same answer."""
    with _in_eval_mode(model):
        reader = TokenReader(model, device, split)
        evaluation = Evaluation()
        if plan.heldout:
            evaluation.heldout = _measure_heldout(plan, reader)
            _tell_not_finite(reader, "held-out loss")
        if plan.long.documents:
            _measure_documents(evaluation, plan, reader)
            _tell_not_finite(reader, "perplexity by length")
        if plan.tasks is not None:
            evaluation.tasks = measure_tasks(plan.tasks, reader, plan.settings.scoring)
            evaluation.effective_length = effective_lengths(evaluation.tasks)
        if plan.lm_eval:
            evaluation.lm_eval = measure_lm_eval(inner_model(model), plan.tokenizer, plan.lm_eval)
    return evaluation


def measure_heldout(
    plan: EvaluationPlan,
    model: nn.Module,
    device: torch.device,
    split: WorkSplit,
    after_batch: Callable[[], object] | None = None,
) -> LossMeasurement:
    """Measure held-out loss alone, as `evaluate` does; a collective."""
    with _in_eval_mode(model):
        return _measure_heldout(plan, TokenReader(model, device, split), after_batch)


def _measure_heldout(
    plan: EvaluationPlan, reader: TokenReader, after_batch: Callable[[], object] | None = None
) -> LossMeasurement:
    return measure_loss(
        reader,
        plan.heldout,
        pad_token_id=plan.tokenizer.pad_token_id,
        batch_size=plan.settings.batch_size,
        after_batch=after_batch,
    )


def measure_tasks(
    tasks: TaskSamples, reader: TokenReader, scoring: Scoring
) -> dict[str, dict[str, TaskScore]]:
    """Return the score of each task at each length; while that takes long, say how far it is."""
    said = time.monotonic()
    found: dict[str, dict[str, TaskScore]] = {}
    pairs = tasks.pairs()
    for number, (task, length) in enumerate(pairs, start=1):
        samples = list(tasks.of(task, length))
        if scoring is Scoring.forced:
            scores = forced_scores(reader, samples)
        else:
            scores = generated_scores(reader, samples, tasks.material.tokenizer)
        _tell_not_finite(reader, f"{task} at {length:,} tokens")
        score = _summed_up(samples, scores)
        found.setdefault(task, {})[str(length)] = score
        if time.monotonic() - said < SECONDS_BETWEEN_LINES:
            continue
        said = time.monotonic()
        log.info(
            "evaluation      %d/%d  %s at %s tokens: %.0f%%",
            number, len(pairs), task, f"{length:,}", 100 * score.score,
        )  # fmt: skip
    return found


def _tell_not_finite(reader: TokenReader, what: str) -> None:
    """Name what was measured of a model that computes no numbers there; a collective."""
    if count := reader.take_not_finite():
        log.warning(
            "evaluation      %s: %s no numbers (NaN or infinite), and right answers never: look at "
            "the model's weights, and at model.dtype",
            what,
            f"{counted(count, 'prediction')} {'is' if count == 1 else 'are'}",
        )


def describe(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return (what, how much), in words for people."""
    lines = []
    if (m := evaluation.heldout) is not None:
        text = f"{m.loss:.4f} (perplexity {m.perplexity:.3f}, {m.tokens:,} tokens)"
        lines.append(("held-out loss", text))
    if evaluation.by_length:
        measured = [f"{int(n):,}: {m.perplexity:.3f}" for n, m in evaluation.by_length.items()]
        count = next(iter(evaluation.by_length.values())).examples
        lines.append(
            ("by length", f"perplexity at {', '.join(measured)} ({counted(count, 'document')})")
        )
    if evaluation.longppl:
        known = [
            f"{int(n):,}: {'no key tokens' if value is None else f'{value:.3f}'}"
            for n, value in evaluation.longppl.items()
        ]
        lines.append(("LongPPL", f"at {', '.join(known)}"))
    for task, scores in evaluation.tasks.items():
        shares = [f"{int(n):,}: {score.score:.0%}" for n, score in scores.items()]
        lines.append((task, ", ".join(shares)))
    for rule, length in evaluation.effective_length.items():
        text = "none of the lengths" if length is None else f"{length:,} tokens"
        lines.append(("effective", f"{text} ({rule})"))
    for task, metrics in evaluation.lm_eval.items():
        lines.append((task, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())))
    return lines


def _measure_documents(evaluation: Evaluation, plan: EvaluationPlan, reader: TokenReader) -> None:
    long, settings = plan.long, plan.settings
    longest = long.lengths[-1]
    at_longest = document_losses(reader, long.documents, longest)
    evaluation.loss_by_position = loss_by_position(at_longest)
    if settings.stride is None:
        known: dict[str, LossMeasurement] = {str(longest): mean_loss(at_longest, long.documents)}
        shorter = type(long)(lengths=long.lengths[:-1], documents=long.documents)
        evaluation.by_length = measure_by_length(reader, shorter) | known
    else:
        evaluation.by_length = measure_by_length(
            reader, long, stride=settings.stride, max_windows=settings.max_windows
        )
    if settings.longppl:
        evaluation.longppl = measure_longppl(reader, long)


def _summed_up(samples: list[Sample], scores: list[float]) -> TaskScore:
    by_depth: dict[str, list[float]] = {}
    for sample, score in zip(samples, scores, strict=True):
        if sample.depth is not None:
            by_depth.setdefault(f"{sample.depth:g}", []).append(score)
    return TaskScore(
        score=sum(scores) / len(scores),
        samples=len(scores),
        by_depth={depth: sum(found) / len(found) for depth, found in sorted(by_depth.items())},
    )


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
