"""sft-eval: what a checkpoint makes of long texts; the measurements of a run, for any model."""

import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from sft_app.common.console import EVALUATION as EVALUATION_GOES_ON
from sft_app.common.console import guard_console
from sft_app.common.errors import ConfigError
from sft_app.config.command_line import prepare_arguments
from sft_app.config.hydra_callback import run_task, typed_without_hydra
from sft_app.config.one_sentence import exit_with_message
from sft_app.config.schema.app import AppConfig, register_schema, save_config
from sft_app.config.validation.validate import validate
from sft_app.launch.job.job_errors import JobFailed
from sft_app.launch.job.job_lock import only_one
from sft_app.launch.job.outer_launcher import refuse_outer_launcher
from sft_app.launch.job.run_job import worker_command
from sft_app.launch.job.supervise import run_supervised
from sft_app.launch.job.worker_processes import worker_environment
from sft_app.records.evaluation_file import REQUEST, EvaluationRequest, read_evaluation
from sft_app.records.failure import clear_failures, first_failure
from sft_app.records.run_files import CONFIG, EVALUATION, REPORT
from sft_app.reporting.run.evaluation_report import write_evaluation_report
from sft_app.reporting.run.evaluation_text import evaluation_lines
from sft_app.reporting.run.read_run import is_run

RUN_DIR = "hydra.run.dir="
"""Where the evaluation shall go; else to a folder of its own below outputs/evaluations."""
WRITES_NOTHING = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "~hydra.callbacks.validate",
    "~hydra.callbacks.run",
    "~hydra.callbacks.sweep",
]
"""Hydra makes no folder: one is made when what was asked for can be done."""
WORKER = "sft_app.evaluation.eval_worker"
STAGED = ".partial"
"""Folder in the evaluation's, in which it is written before it is complete."""
OF_TRAINING = ("trainer", "adapter", "sweep", "run", "plan")
HEEDED_ANYWAY = ("sweep.lengths",)
"""Where there are no evaluation.lengths."""
NAME_CONVERSATIONS = frozenset({"data", "data.train", "data.eval"})
BAD_INPUT = ("ConfigError", "DataError")


def main() -> None:
    """Run the command: exit code 0, 1 (it failed), 2 (bad input), 130 or 143 (a signal)."""
    guard_console()
    try:
        refuse_outer_launcher()
    except ConfigError as error:
        exit_with_message(error)
    prepare_arguments(sys.argv)
    Folder.named = [in_plain_text(word) for word in sys.argv if word.startswith(RUN_DIR)]
    sys.argv = [word for word in sys.argv if not word.startswith(RUN_DIR)] + WRITES_NOTHING
    register_schema()
    run_task(evaluate)


def without_effect_here(given: Sequence[str]) -> list[str]:
    """Return those of the given keys that only a training heeds."""
    return [
        key for key in given if key.partition(".")[0] in OF_TRAINING and key not in HEEDED_ANYWAY
    ]


def without_conversations(given: Sequence[str]) -> list[str]:
    """Return those of the given keys that say how data are read, where no data are named."""
    if NAME_CONVERSATIONS & set(given):
        return []
    return [key for key in given if key.startswith("data.")]


def on_named_data(config: AppConfig, given: Sequence[str]) -> AppConfig:
    """Return the settings with no other conversations than those that the given keys name.

    Where `data.eval` is named alone, `data.train` is the demo's, which would be read for nothing.
    """
    if NAME_CONVERSATIONS & set(given) != {"data.eval"} or config.data.eval is None:
        return config
    return replace(config, data=replace(config.data, train=config.data.eval))


def in_plain_text(word: str) -> str:
    """Return the value of an override, without the quotes in which Hydra reads special characters.

    `word` is one that `prepare_arguments` has left.
    """
    return str(OverridesParser.create().parse_override(word).value())


class Folder:
    """Remembers where the evaluation goes, past Hydra, which would make the folder at once."""

    named: list[str]

    @classmethod
    def make(cls) -> Path:
        """Make the folder, and return it; raises ConfigError for one that holds a run, or is none.

        One that nobody has named is new: evaluations that start in one second share none.
        """
        if not cls.named:
            return cls._make_new(datetime.now())
        directory = Path(cls.named[-1])
        if "${" in cls.named[-1]:
            raise ConfigError(f"{RUN_DIR}{directory} refers to a setting: write the folder's path.")
        if is_run(directory):  # whose config.yaml and report.html would be lost
            raise ConfigError(
                f"{RUN_DIR}{directory} holds a run: name another folder for the evaluation."
            )
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    @staticmethod
    def _make_new(now: datetime) -> Path:
        first = Path(f"outputs/evaluations/{now:%Y-%m-%d}/{now:%H-%M-%S}")
        directory, number = first, 1
        while True:
            try:
                directory.mkdir(parents=True)
            except FileExistsError:
                number += 1
                directory = first.with_name(f"{first.name}-{number}")
            else:
                return directory


@hydra.main(version_base="1.3", config_path="pkg://sft_app.conf", config_name="config")
def evaluate(composed: DictConfig) -> None:
    """Measure one checkpoint in worker processes, and print what came out."""
    given = [word.lstrip("+~").split("=")[0] for word in HydraConfig.get().overrides.task]
    try:
        config = on_named_data(typed_without_hydra(composed), given)
        conversations = bool(NAME_CONVERSATIONS & set(given))
        validate(config, without_data=not conversations)
        if not {"model", "model.name_or_path", "experiment"} & set(given):
            raise ConfigError("no model is named: add model.name_or_path=/some/dir.")
    except ConfigError as error:
        exit_with_message(error)
    for key in without_effect_here(given):
        print(f"sft-eval: {key} has no effect: nothing is trained here.", file=sys.stderr)
    for key in without_conversations(given):
        print(f"sft-eval: {key} has no effect: data.eval names no conversations.", file=sys.stderr)
    try:
        directory = Folder.make()
    except ConfigError as error:
        exit_with_message(error)
    request = EvaluationRequest(
        own_context="context_length" not in given, conversations=conversations
    )
    try:
        with only_one(directory):
            _measure(config, request, directory)
    except JobFailed as failure:
        print(f"sft-eval: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)


def _measure(config: AppConfig, request: EvaluationRequest, directory: Path) -> None:
    guard_console(EVALUATION_GOES_ON)
    print(
        f"Evaluating {config.model.name_or_path}\n  evaluation directory: {directory}", flush=True
    )
    with written_aside(directory) as staged:
        request.write(staged)
        save_config(config, staged / CONFIG)
        _run_workers(config, staged)
    for line in evaluation_lines(read_evaluation(directory)):
        print(line)
    print(f"  {directory / EVALUATION}")
    try:
        print(f"  {write_evaluation_report(directory)}")
    except OSError as error:  # what was measured stands
        print(f"sft-eval: no page was written: {error}", file=sys.stderr)


@contextmanager
def written_aside(directory: Path) -> Iterator[Path]:
    """Yield a folder to measure in; what stands in it goes to `directory` when it is complete.

    An evaluation that fails leaves the one that stood there, and not its settings beside numbers
    of another model; where none stood, it leaves its settings.
    """
    staged = directory / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        yield staged
    finally:
        complete = (staged / EVALUATION).is_file()
        if complete:
            (directory / REPORT).unlink(missing_ok=True)  # of what was measured before
        if complete or not (directory / EVALUATION).is_file():
            for name in (REQUEST, CONFIG, EVALUATION):
                if (staged / name).is_file():
                    (staged / name).replace(directory / name)
        shutil.rmtree(staged, ignore_errors=True)


def _run_workers(config: AppConfig, staged: Path) -> None:
    """Measure into the folder; ends the command where that fails."""
    ended = run_supervised(
        worker_command(config.launch, staged / CONFIG, run_id=str(uuid.uuid4()), module=WORKER),
        worker_environment(config.launch),
        grace_seconds=config.launch.shutdown_grace_seconds,
    )
    failure = first_failure(staged)
    clear_failures(staged)
    if ended.interrupted_by is not None:
        sys.exit(128 + ended.interrupted_by)
    if failure is not None:
        if failure.error.type not in BAD_INPUT:
            print(failure.error.traceback, file=sys.stderr)
        print(f"sft-eval: {failure.error.message}", file=sys.stderr)
        sys.exit(2 if failure.error.type in BAD_INPUT else 1)
    if ended.exit_code != 0:
        print("sft-eval: a worker ended without saying why (out of memory?)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
