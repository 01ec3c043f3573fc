"""Which settings of a rung go on to the next one."""

from collections.abc import Mapping
from pathlib import Path

from sft_app.records.place import Place
from sft_app.reporting.sweep.cells import CellRecord, collect_sweep
from sft_app.reporting.sweep.rank_settings import asked_best_by, rank_settings
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences

RUNG, KEEP_ONE_IN = "sweep.rung", "sweep.keep_one_in"


def places(sweep_dir: Path, rung: int) -> Mapping[str, Place]:
    """Return the place of each cell of `rung`, by name, as the sweep's page ranks settings.

    Several seeds of a setting have one place, by their mean; a setting of which one failed, or
    measured nothing, has none. Of n settings that entered, n // keep_one_in go on, at least one.
    """
    cells = collect_sweep(sweep_dir)
    entered = [
        cell for cell in cells if cell.settings.get(RUNG) == rung and cell.status != "dropped"
    ]
    settings = group_seeds(entered, differences(entered))
    whole = [setting for setting in settings if len(setting.completed) == len(setting.cells)]
    ranked = rank_settings(whole, best_by=asked_best_by(sweep_dir, cells))
    if ranked is None:
        return {}
    kept = max(1, len(settings) // _keep_one_in(entered))
    criterion = ranked.criterion
    found: dict[str, Place] = {}
    for rank, setting in enumerate(ranked.settings, start=1):
        value = setting.spread(criterion.measure)
        text = criterion.as_text(value.mean if value else None)
        place = Place(
            rank=rank,
            entered=len(settings),
            kept=kept,
            measured=f"{criterion.measured}: {text}",
        )
        found |= {cell.name: place for cell in setting.cells}
    return found


def _keep_one_in(cells: list[CellRecord]) -> int:
    return max(int(cell.settings.get(KEEP_ONE_IN, 1)) for cell in cells)
