"""What each method came to with each budget: the cells of a sweep, seed by seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sft_app.common.errors import ConfigError
from sft_app.config.config_hash import can_change_the_outcome
from sft_app.evaluation.scoring.effective_length import mean_scores
from sft_app.records.identity import HOW_A_STEP_IS_CUT, NO_MATTER_TO_TRAINING
from sft_app.records.result import Evaluation, RunResult
from sft_app.reporting.run.long_context import effective_length
from sft_app.reporting.run.summary import at
from sft_app.reporting.sweep.cells import CellRecord

BUDGETS = ("trainer.max_steps", "trainer.num_train_epochs", "sweep.supervised_tokens")
"""What the points of one way may differ in."""
MOST_KEYS = 3


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model: a method, a seed, and so many tokens of tuning."""

    tokens: int
    """Positions trained on, padding included; 0: the extension is applied, and nothing trained."""
    budget: tuple[str, ...]
    """What its cell was to train, as it was asked for: tokens differ a little between seeds."""
    steps: int
    loss: Mapping[int, float]
    """Length in tokens -> nats a token."""
    score: Mapping[int, float]
    """Length in tokens -> mean score of the tasks, 0 to 1."""
    effective_length: int | None
    seconds: float
    """Of training, from the first step, whichever cell trained them."""
    memory: int | None
    """Bytes, at the peak."""


@dataclass(kw_only=True)
class Trajectory:
    """The points of one method to one length, with one seed."""

    method: str
    context_length: int
    window: int | None
    """Tokens that the model was pre-trained for."""
    theta: float | None
    """Base of the rotation, as it is used; None: the plan names none."""
    seed: int | None
    points: list[Point] = field(default_factory=list)
    """By tokens; the first one untuned, where that was measured."""

    @property
    def tuned(self) -> Point | None:
        """Return the point of the largest budget."""
        return self.points[-1] if self.points and self.points[-1].tokens else None

    @property
    def untuned(self) -> Point | None:
        """Return the point before training."""
        return self.points[0] if self.points and not self.points[0].tokens else None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A cell without a result."""

    name: str
    status: str
    why: str


def trajectories(cells: Iterable[CellRecord]) -> list[Trajectory]:
    """Group the completed cells by method, length and seed; the budgets of a group are its points.

    Raises ConfigError for cells of one group that differ in more than the budget (a learning rate,
    say), or not at all: the last one would stand for all of them.
    """
    by_folder = {cell.run.directory.absolute(): cell for cell in cells}  # once, though shared
    found: dict[tuple[str, int, int | None], Trajectory] = {}
    of_way: dict[tuple[str, int, int | None], list[CellRecord]] = {}
    for cell in by_folder.values():
        result = cell.result
        if not cell.is_completed or result is None or cell.context_length is None:
            continue
        method = asked_method(cell)
        key = (method, cell.context_length, cell.seed)
        for other in of_way.setdefault(key, []):
            _check_budgets_alone(other, cell)
        of_way[key].append(cell)
        theta = at(cell.run.plan, "rope.rope_parameters.rope_theta")
        window = at(cell.run.plan, "rope.original_context_length")
        trajectory = found.setdefault(
            key,
            Trajectory(
                method=method,
                context_length=cell.context_length,
                window=window if isinstance(window, int) else None,
                theta=float(theta) if isinstance(theta, int | float) else None,
                seed=cell.seed,
            ),
        )
        if result.evaluation_before is not None and trajectory.untuned is None:
            trajectory.points.append(_point(result.evaluation_before, (), 0, 0, 0.0, None))
        if result.evaluation_after is not None:
            trajectory.points.append(
                _point(
                    result.evaluation_after,
                    tuple(str(cell.settings.get(key)) for key in BUDGETS),
                    result.tokens.total,
                    result.steps,
                    _seconds(result),
                    cell.peak_memory_bytes,
                )
            )
        trajectory.points.sort(key=lambda point: point.tokens)
    return sorted(found.values(), key=lambda t: (t.context_length, t.method, t.seed or 0))


def at_largest_budget(of_method: Iterable[Trajectory]) -> list[Point]:
    """Return the tuned points of the seeds that have come to the largest budget of any.

    One whose largest cell is lost, or still to be run, has a point of a smaller budget, which is no
    other seed's equal.
    """
    tuned = [t.tuned for t in of_method if t.tuned]
    largest = max(tuned, key=lambda point: point.tokens, default=None)
    return [point for point in tuned if largest is not None and point.budget == largest.budget]


def _check_budgets_alone(other: CellRecord, cell: CellRecord) -> None:
    """Raise ConfigError unless two cells of a method, length and seed differ in their budget."""
    keys = {*other.settings, *cell.settings} - {*HOW_A_STEP_IS_CUT, *NO_MATTER_TO_TRAINING}
    differing = sorted(
        key
        for key in keys
        if can_change_the_outcome(key) and other.settings.get(key) != cell.settings.get(key)
    )
    others = [key for key in differing if key not in BUDGETS]
    if differing and not others:
        return
    what = f"differ in {', '.join(others[:MOST_KEYS])}" if others else "are one and the same"
    raise ConfigError(
        f"{other.name} and {cell.name} have one method, length and seed, and {what}: a leaderboard "
        "is of a sweep over methods, lengths, budgets and seeds. Give the folder of such a sweep, "
        "or move the cells that do not belong to it out of this one."
    )


def lost_cells(cells: Iterable[CellRecord]) -> list[Lost]:
    """List the cells that have no result, and why."""
    return [
        Lost(
            name=cell.name,
            status=cell.status,
            why=cell.result.error.message if cell.result and cell.result.error else "",
        )
        for cell in cells
        if not cell.is_completed
    ]


def asked_method(cell: CellRecord) -> str:
    """Return the method as the sweep asked for it, which is what cells are compared by."""
    asked = cell.settings.get("rope.method")
    return str(asked) if asked not in (None, "auto") else str(cell.method)


def _point(
    evaluation: Evaluation,
    budget: tuple[str, ...],
    tokens: int,
    steps: int,
    seconds: float,
    memory: int | None,
) -> Point:
    return Point(
        tokens=tokens,
        budget=budget,
        steps=steps,
        loss={int(length): m.loss for length, m in evaluation.by_length.items()},
        score=mean_scores(evaluation.tasks),
        effective_length=effective_length(evaluation),
        seconds=seconds,
        memory=memory,
    )


def _seconds(result: RunResult) -> float:
    """Return what the training loop took, whichever start or smaller budget's cell trained.

    Tokens and their mean rate are counted through every checkpoint; the phase `train` is of the
    last start alone, which older records have to do with.
    """
    if result.tokens_per_second:
        return result.tokens.non_padding / result.tokens_per_second
    return result.seconds.get("train", 0.0)
