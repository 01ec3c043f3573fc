"""Everything that a run's directory says, however much of it is there.

A report is wanted most when something went wrong: a missing, broken or half-written file becomes a
sentence in `problems`, never an exception.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sft_app.common.secrets import shown_override, without_secrets
from sft_app.records.evaluation_file import REQUEST
from sft_app.records.liveness import has_died, last_stamp
from sft_app.records.result import RunResult, Status, read_result
from sft_app.records.run_files import CONFIG, LOG, METRICS, PLAN, RESULT
from sft_app.records.step_log import StepLine
from sft_app.reporting.run.check_types import check_types
from sft_app.reporting.run.read_metrics import read_metrics

HYDRA_CONFIG = ".hydra/config.yaml"
HYDRA_OVERRIDES = ".hydra/overrides.yaml"

# libyaml reads hundreds of configurations in the time of a blink.
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(kw_only=True)
class RunFolder:
    """Holds everything that a run's directory says."""

    directory: Path
    status: str
    """A records.Status; died (it says running, and nobody runs it any more);
    or missing (no result was written), or unreadable (a broken one)."""
    result: RunResult | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """Nested; empty when there is none."""
    overrides: list[str] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    metrics: list[StepLine] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    last_sign_of_life: float | None = None
    """When it was last known to run, in seconds since the epoch; None: it was concluded."""


def read_run(run_dir: Path) -> RunFolder:
    """Read a run's directory; what is missing or broken becomes a sentence in `problems`."""
    problems: list[str] = []
    result = _read_result(run_dir, problems)
    config = _read_config(run_dir, problems)
    plan = _read_plan(run_dir, problems)
    metrics, metrics_problems = read_metrics(run_dir)
    status = _status(run_dir, result, metrics)
    problems += metrics_problems
    if status == "running":  # what is still to come is no news
        missing = [name for name in (PLAN, METRICS) if not (run_dir / name).exists()]
        problems = [p for p in problems if not p.startswith(tuple(missing))]
    return RunFolder(
        directory=run_dir,
        status=status,
        result=result,
        config=config,
        overrides=_read_overrides(run_dir),
        plan=plan,
        metrics=metrics,
        problems=problems,
        last_sign_of_life=last_stamp(run_dir),
    )


def is_run(directory: Path) -> bool:
    """Tell whether a run lives, or began, in this very directory."""
    if (directory / REQUEST).is_file():
        return False  # sft-eval trains nothing
    if any((directory / name).is_file() for name in (RESULT, HYDRA_OVERRIDES)):
        return True
    config = directory / CONFIG
    return config.is_file() and not _is_composed_by_hydra(config)


def last_written(run_dir: Path) -> float:
    """Return when the run last wrote something, in seconds since the epoch; 0 when it never did."""
    names = (RESULT, METRICS, LOG, PLAN, CONFIG, HYDRA_OVERRIDES)
    times = [(run_dir / name).stat().st_mtime for name in names if (run_dir / name).is_file()]
    return max(times, default=0.0)


def _is_composed_by_hydra(config: Path) -> bool:
    """conf/config.yaml and its like: the root of a configuration, and not a run's resolved one."""
    try:
        lines = config.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("defaults:") for line in lines)


def _status(run_dir: Path, result: RunResult | None, metrics: list[StepLine]) -> str:
    if result is not None:
        if result.status is Status.running and has_died(run_dir):
            return "died"
        return result.status.value
    if (run_dir / RESULT).exists():
        return "unreadable"
    return "running" if metrics else "missing"


def _read_result(run_dir: Path, problems: list[str]) -> RunResult | None:
    if not (run_dir / RESULT).exists():
        problems.append(f"{RESULT} is missing: the run has not started, or was killed early.")
        return None
    try:
        result = read_result(run_dir)
        check_types(result, RunResult, "")
        _check_lengths(result)
        return result
    except (ValueError, RecursionError, AttributeError) as error:
        problems.append(f"{RESULT} cannot be used: {_brief(error)}")
        return None


def _check_lengths(result: RunResult) -> None:
    for evaluation in (result.evaluation_before, result.evaluation_after):
        if evaluation is not None:
            scores = [score for task in evaluation.tasks.values() for score in task.items()]
            lengths = [*evaluation.by_length, *evaluation.longppl, *evaluation.loss_by_position]
            for length in [*lengths, *(length for length, _ in scores)]:
                if not length.isdecimal() or int(length) == 0:
                    raise ValueError(f"{length!r} is not an evaluation length")
            for depth in (depth for _, score in scores for depth in score.by_depth):
                if not 0 <= float(depth) <= 1:
                    raise ValueError(f"{depth!r} is not a depth")


def _read_config(run_dir: Path, problems: list[str]) -> dict[str, Any]:
    for name in (CONFIG, HYDRA_CONFIG):
        try:
            config = load_yaml(run_dir / name)
        except FileNotFoundError:
            problems.append(f"{name} is missing.")
            continue
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            problems.append(f"{name} cannot be read: {_brief(error)}")
            continue
        if isinstance(config, dict) and config:
            return without_secrets(config)
        problems.append(f"{name} holds no settings.")
    return {}


def _read_overrides(run_dir: Path) -> list[str]:
    try:
        overrides = load_yaml(run_dir / HYDRA_OVERRIDES)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    return [shown_override(str(line)) for line in overrides] if isinstance(overrides, list) else []


def _read_plan(run_dir: Path, problems: list[str]) -> dict[str, Any]:
    try:
        plan = json.loads((run_dir / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{PLAN} is missing: no plan was written.")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{PLAN} cannot be read: {_brief(error)}")
        return {}
    if not isinstance(plan, dict):
        problems.append(f"{PLAN} holds no plan.")
        return {}
    return plan


def load_yaml(path: Path) -> Any:
    """Read a YAML file, quickly; raises what reading and parsing raise."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
