"""result.json: what a run did, what it measured, and how it ended."""

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sft_app.common import strict_json
from sft_app.common.strict_json import numbers_of, with_nan
from sft_app.records.run_files import RESULT, write_atomically
from sft_app.records.verification import Verification, verification_from_dict


class Status(StrEnum):
    """How far a run has come, or how it ended."""

    pending = "pending"
    """A job of a sweep that has not begun."""
    running = "running"
    completed = "completed"
    failed = "failed"
    out_of_memory = "out_of_memory"
    interrupted = "interrupted"
    skipped = "skipped"
    """Never begun: a shorter context of the same settings ran out of memory."""
    shared = "shared"
    """Not run: another job of the sweep would do the same, and has its result for both."""
    dropped = "dropped"
    """Not run: successive halving did not keep its setting after a shorter run of it."""


@dataclass(kw_only=True)
class RunError:
    """The root cause: of the rank that failed first, not of those that failed in its wake."""

    type: str
    message: str
    rank: int | None = None
    traceback: str | None = None


@dataclass(kw_only=True)
class LossMeasurement:
    """Mean cross-entropy in nats over `tokens` supervised tokens, each weighted equally."""

    loss: float
    perplexity: float
    tokens: int
    examples: int
    text: str | None = None
    """Digest of the tokens that were read: two losses with the same one are of the same text. Null:
    written by version 0.2 or before."""


@dataclass(kw_only=True)
class TaskScore:
    """How well a task was done at one length."""

    score: float
    """Mean share of right answers, 0 to 1."""
    samples: int
    by_depth: dict[str, float] = field(default_factory=dict)
    """Depth of the needle, 0 (beginning) to 1 (end), as text -> mean score; empty: no one depth."""


@dataclass(kw_only=True)
class Evaluation:
    """One evaluation of one model: result.json's evaluation_before and _after, and eval.json.

    Lengths, depths and positions are keys, and so text.
    """

    heldout: LossMeasurement | None = None
    by_length: dict[str, LossMeasurement] = field(default_factory=dict)
    """Context length in tokens -> loss on documents at least as long as the longest."""
    tasks: dict[str, dict[str, TaskScore]] = field(default_factory=dict)
    """Task -> length in tokens -> score."""
    effective_length: dict[str, int | None] = field(default_factory=dict)
    """Rule -> tokens; null where no length passes."""
    longppl: dict[str, float | None] = field(default_factory=dict)
    """Length in tokens -> perplexity of the tokens that need the long context; null: none does."""
    loss_by_position: dict[str, float] = field(default_factory=dict)
    """Last position of a bin -> mean loss of its tokens, at the longest length."""
    lm_eval: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task of lm-evaluation-harness -> metric -> value."""

    @property
    def passkey(self) -> dict[str, float]:
        """Return the share of passkeys retrieved, by length."""
        return {length: score.score for length, score in self.tasks.get("passkey", {}).items()}


@dataclass(kw_only=True)
class TokenCounts:
    """Positions that went through the model in training, of all ranks together."""

    total: int = 0
    """With the padding."""
    supervised: int = 0
    """Those whose loss counts."""
    padding: int = 0

    @property
    def non_padding(self) -> int:
        """Positions that hold data; stands in result.json as well."""
        return self.total - self.padding


@dataclass(kw_only=True)
class Rewind:
    """How trainer.on_loss_spike=rewind went back once."""

    step: int
    """Whose loss was a spike; the batches after `back_to`, up to this one's, were left out."""
    back_to: int
    """The step of the checkpoint whose weights and optimizer were loaded."""
    loss: float
    """Of the spike."""
    usual_loss: float
    """Mean over the steps that it was compared with."""


@dataclass(kw_only=True)
class RunResult:
    """Everything that result.json says; None is what has not been found out, or never will be."""

    status: Status
    started_at: str
    """ISO 8601 with time zone."""
    config_hash: str
    """SHA-256 of the resolved configuration without what cannot change the outcome."""
    context_length: int
    model: str
    seed: int
    rope_method: str | None = None
    rope_factor: float | None = None
    rope_warnings: list[str] = field(default_factory=list)
    """What the plan warns of: who reads the saved positions otherwise, windows, contradictions."""
    finished_at: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Phase -> wall seconds: start (processes and imports), plan, data, load, prepare,
    evaluate_before, train, save, evaluate_after, verify; and total."""
    seconds_before: float = 0.0
    """Wall seconds of the earlier starts that this one went on from: `seconds` has none of them."""
    process_seconds_before: float | None = None
    """The same, each start times its processes; null: they were as many as now, `world_size`."""
    world_size: int = 1
    device: str | None = None
    num_parameters: int | None = None
    num_trainable_parameters: int | None = None
    steps: int = 0
    """Optimizer steps so far: written as training goes."""
    epochs: float = 0.0
    tokens: TokenCounts = field(default_factory=TokenCounts)
    tokens_per_second: float | None = None
    """Of all ranks, padding left out, per wall second of training."""
    model_flops_utilisation: float | None = None
    """Of the GPU's datasheet (dense bfloat16), 0 to 1; null for hardware without one."""
    measured_matmul_utilisation: float | None = None
    """The same, of the matrix-product rate measured in the process."""
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    """host (resident set of the largest rank) and, with CUDA, device (allocated, largest rank)."""
    train_loss_first: float | None = None
    """Mean over the first quarter of the steps: single batches differ too much."""
    train_loss_last: float | None = None
    """Mean over the last quarter."""
    best_step: int | None = None
    """The step with the lowest held-out loss of those measured while training went."""
    best_heldout_loss: float | None = None
    weights_of_step: int | None = None
    """The step whose weights are the model: the last one, but where
    trainer.load_best_model_at_end has taken an earlier one that is on the disk, whole."""
    stopped_early: bool = False
    """trainer.early_stopping_patience has ended training before its last step."""
    evaluation_before: Evaluation | None = None
    evaluation_after: Evaluation | None = None
    verification: Verification | None = None
    """What a fresh process made of the saved model; null: it was not asked."""
    resumed_from: str | None = None
    """The checkpoint that training went on from."""
    same_as: str | None = None
    """With status shared: the folder, beside this one, of the job that runs for both."""
    rejected_checkpoints: list[str] = field(default_factory=list)
    """Newer ones that could not be used, and why."""
    skipped_steps: int = 0
    """Steps that trainer.on_nonfinite=skip has left out, before a resume as well."""
    rewinds: list[Rewind] = field(default_factory=list)
    """Where trainer.on_loss_spike=rewind went back, before a resume as well."""
    versions: dict[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    error: RunError | None = None

    def all_process_seconds(self, own: float) -> float:
        """Return the seconds of all processes of all starts; of this one, `own` on the wall."""
        before = self.process_seconds_before
        if before is None:
            before = self.seconds_before * self.world_size
        return before + own * self.world_size

    def write(self, run_dir: Path) -> None:
        """Write result.json of `run_dir`, in one step."""
        values = dataclasses.asdict(self)
        values["tokens"]["non_padding"] = self.tokens.non_padding
        write_atomically(run_dir / RESULT, strict_json.dumps(values, indent=2) + "\n")


def read_result(run_dir: Path) -> RunResult:
    """Read result.json of `run_dir`; raises ValueError when it is missing or not readable."""
    path = run_dir / RESULT
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return _from_dict(raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable result: {error}") from error


def _from_dict(raw: dict[str, Any]) -> RunResult:
    nested = dict(raw)
    nested["status"] = Status(raw["status"])
    counts = {key: n for key, n in raw["tokens"].items() if key != "non_padding"}  # derived
    nested["tokens"] = TokenCounts(**counts)
    nested["error"] = RunError(**raw["error"]) if raw.get("error") else None
    nested["rewinds"] = [Rewind(**with_nan(Rewind, rewind)) for rewind in raw.get("rewinds", [])]
    found = raw.get("verification")
    nested["verification"] = verification_from_dict(found) if found else None
    for key in ("evaluation_before", "evaluation_after"):
        nested[key] = evaluation_from_dict(raw[key]) if raw.get(key) else None
    return RunResult(**with_nan(RunResult, nested))


def evaluation_from_dict(raw: dict[str, Any]) -> Evaluation:
    """Read what `dataclasses.asdict` made of an Evaluation, and what versions before 0.2 wrote."""
    tasks = {
        name: {n: TaskScore(**with_nan(TaskScore, score)) for n, score in scores.items()}
        for name, scores in raw.get("tasks", {}).items()
    }
    if raw.get("passkey"):  # before there were tasks
        tasks["passkey"] = {
            length: TaskScore(score=share, samples=0) for length, share in raw["passkey"].items()
        }
    return Evaluation(
        heldout=_loss(raw["heldout"]) if raw["heldout"] else None,
        by_length={length: _loss(measured) for length, measured in raw["by_length"].items()},
        tasks=tasks,
        effective_length=dict(raw.get("effective_length", {})),
        longppl=dict(raw.get("longppl", {})),
        loss_by_position=numbers_of(raw.get("loss_by_position", {})),
        lm_eval={name: numbers_of(found) for name, found in raw.get("lm_eval", {}).items()},
    )


def _loss(raw: dict[str, Any]) -> LossMeasurement:
    return LossMeasurement(**with_nan(LossMeasurement, raw))
