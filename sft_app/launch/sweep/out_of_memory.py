"""Whether a shorter job of the same settings ran out of memory already."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from sft_app.config.schema.app import AppConfig
from sft_app.records.result import RunResult, Status, read_result

OVERRIDES = ".hydra/overrides.yaml"


def shorter_out_of_memory(
    run_dir: Path, config: AppConfig, overrides: Sequence[str]
) -> RunResult | None:
    """Return the result of such a job beside `run_dir`; None without one, or for a sweep of all.

    "The same settings" are all overrides but context_length: what follows from the length, such as
    the batch, may differ.
    """
    if not config.sweep.skip_longer_after_oom:
        return None
    own = _without_length(overrides)
    for file in sorted(run_dir.parent.glob(f"*/{OVERRIDES}")):
        other = file.parents[1]
        try:
            result = read_result(other)
            same = _without_length(yaml.safe_load(file.read_text(encoding="utf-8")) or []) == own
        except (ValueError, OSError, yaml.YAMLError):
            continue  # being written, or never completed: says nothing
        ran_out = result.status is Status.out_of_memory
        if ran_out and same and result.context_length < config.context_length:
            return result
    return None


def _without_length(overrides: Sequence[str]) -> set[str]:
    return {o for o in overrides if not o.startswith("context_length=")}
