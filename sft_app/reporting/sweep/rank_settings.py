"""The best setting of a sweep, by a rule that the report states in words."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from sft_app.config.schema.sweep import BestBy
from sft_app.reporting.page import format_values
from sft_app.reporting.run.read_run import load_yaml
from sft_app.reporting.run.summary import at
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.criteria import Criterion, criterion_of, heldout_loss
from sft_app.reporting.sweep.seed_groups import Measure, Setting, Spread

HYDRA_SWEEP = "multirun.yaml"
BEST_BY = "sweep.best_by"


@dataclass(kw_only=True)
class RankedSettings:
    """Holds the settings that can be compared, best first, and the rule in words."""

    settings: list[Setting]
    """Best first; only settings that have what the rule compares."""
    criterion: Criterion
    rule: str

    @property
    def best(self) -> Setting:
        """Return the setting that ranks first."""
        return self.settings[0]

    @property
    def value(self) -> Spread:
        """Return what was measured of the best setting, over its seeds."""
        return self._of(self.best)

    @property
    def tied(self) -> list[Setting]:
        """Return the settings that cannot be told from the best, itself included."""
        return [self.best, *(s for s in self.settings[1:] if not self._is_worse(s))]

    def distance(self, setting: Setting) -> float:
        """Return how much worse than the best a setting is, in the unit of the criterion's gap."""
        return self.criterion.gap(self.value.mean, self._of(setting).mean)

    def _of(self, setting: Setting) -> Spread:
        value = setting.spread(self.criterion.measure)
        assert value is not None, "ranked"
        return value

    def _is_worse(self, setting: Setting) -> bool:
        first, second = self.value, self._of(setting)
        deviations = (first.deviation, second.deviation)
        # Where no seed has changed either, few seeds and samples say no more than one.
        if None not in deviations and any(deviations):
            difference = self.criterion.worse_by(first.mean, second.mean)
            return difference > 0 and difference >= sum(filter(None, deviations))
        return self.distance(setting) >= self.criterion.least_gap


def asked_best_by(sweep_dir: Path, cells: list[CellRecord]) -> BestBy:
    """Return `sweep.best_by` as the sweep was last started with; the default where nothing says."""
    asked = []
    # Where it is missing or broken, the cells say it, too.
    with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
        asked.append(at(load_yaml(sweep_dir / HYDRA_SWEEP), BEST_BY))
    asked += [cell.settings.get(BEST_BY) for cell in cells]
    known = [value for value in asked if isinstance(value, str) and value in set(BestBy)]
    return BestBy(known[0]) if known else BestBy.perplexity


def rank_settings(
    settings: list[Setting], length: int | None = None, *, best_by: BestBy = BestBy.perplexity
) -> RankedSettings | None:
    """Rank the settings; None when no completed cell has what `best_by` compares.

    A perplexity at `length` (tokens) where all completed cells were evaluated there; else at the
    longest length that they have in common; else the held-out loss.
    """
    completed = [cell for setting in settings for cell in setting.completed]
    criterion = criterion_of(best_by, completed, length)
    if any(len(setting.cells) > 1 for setting in settings):
        about_seeds = (
            "Several seeds of a setting count by their mean; a difference smaller than their "
            "standard deviations together is a tie; where no seed changes either, as on one seed."
        )
    else:
        about_seeds = criterion.one_seed_rule
    ranking = [setting for setting in settings if _comparable(setting, criterion.measure)]
    ranking.sort(key=lambda setting: _rank(setting, criterion))
    if not ranking:
        return None
    rule = f"{criterion.rule} {about_seeds}"
    return RankedSettings(settings=ranking, criterion=criterion, rule=rule)


def why_none(best_by: BestBy) -> str:
    """Say what is missing where no setting can be ranked."""
    missing = {
        BestBy.perplexity: "an evaluation after training",
        BestBy.effective_length: "scores of tasks after training (evaluation.tasks), which "
        "sweep.best_by=effective_length compares",
        BestBy.cliff: "scores of tasks at the trained length and beyond it "
        "(evaluation.tasks, evaluation.lengths), which sweep.best_by=cliff compares",
    }
    return f"There is no best cell yet: no completed cell has {missing[best_by]}."


def gain(ranked: RankedSettings) -> str:
    """Return the best setting's value, and where it came from before training."""
    as_text = ranked.criterion.as_text
    after = with_spread(ranked.value, as_text)
    before = ranked.best.spread(ranked.criterion.before)
    return f"{after} (before training: {as_text(before.mean)})" if before is not None else after


def with_spread(value: Spread | None, as_text: format_values.Formatter) -> str:
    """Return mean ± deviation as text; a dash when nothing was measured."""
    if value is None:
        return format_values.NOT_MEASURED
    deviation = f" ± {as_text(value.deviation)}" if value.deviation is not None else ""
    return as_text(value.mean) + deviation


def _comparable(setting: Setting, measure: Measure) -> bool:
    value = setting.spread(measure)
    return value is not None and math.isfinite(value.mean)


def _rank(setting: Setting, criterion: Criterion) -> tuple[float, float, float, str]:
    value = _mean(setting, criterion.measure)
    return (
        -value if criterion.higher_is_better else value,
        _mean(setting, heldout_loss),
        _mean(setting, lambda cell: cell.gpu_hours),
        setting.variant,
    )


def _mean(setting: Setting, measure: Measure) -> float:
    """Worse than everything where it was not measured; what is ranked was."""
    value = setting.spread(measure)
    return value.mean if value is not None and math.isfinite(value.mean) else math.inf
