"""Numbers that are none, in files that every reader of JSON takes."""

import json
import math
from pathlib import Path
from typing import NoReturn

from sft_app.records.evaluation_file import read_evaluation, write_evaluation
from sft_app.records.result import (
    Evaluation,
    LossMeasurement,
    Rewind,
    RunResult,
    Status,
    TaskScore,
    read_result,
)
from sft_app.records.step_log import StepLine, parse_line

EVALUATION = Evaluation(
    heldout=LossMeasurement(loss=800.0, perplexity=math.inf, tokens=3, examples=1),
    by_length={"64": LossMeasurement(loss=math.nan, perplexity=math.nan, tokens=3, examples=1)},
    tasks={"passkey": {"64": TaskScore(score=math.nan, samples=2, by_depth={"0.5": math.nan})}},
    loss_by_position={"64": math.nan},
    lm_eval={"arc": {"acc": math.nan}},
)


def strict(text: str) -> object:
    """Read as a browser does."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_result_with_numbers_that_are_none_is_json_and_reads_as_such(tmp_path: Path) -> None:
    RunResult(
        status=Status.completed, started_at="2026-01-01T00:00:00+00:00", config_hash="a", seed=1,
        context_length=64, model="m", train_loss_last=math.nan, evaluation_after=EVALUATION,
        rewinds=[Rewind(step=2, back_to=1, loss=math.inf, usual_loss=2.0)],
    ).write(tmp_path)  # fmt: skip
    strict((tmp_path / "result.json").read_text())
    read = read_result(tmp_path)
    assert read.evaluation_after is not None
    check(read.evaluation_after)
    assert math.isnan(read.rewinds[0].loss) and read.rewinds[0].usual_loss == 2.0
    assert read.train_loss_last is None


def test_so_is_an_evaluation_of_its_own(tmp_path: Path) -> None:
    write_evaluation(tmp_path, EVALUATION, {"model": "m"})
    strict((tmp_path / "eval.json").read_text())
    check(read_evaluation(tmp_path))


def check(read: Evaluation) -> None:
    assert read.heldout is not None
    assert read.heldout.loss == 800.0 and math.isnan(read.heldout.perplexity)
    assert math.isnan(read.by_length["64"].loss)
    score = read.tasks["passkey"]["64"]
    assert math.isnan(score.score) and math.isnan(score.by_depth["0.5"])
    assert math.isnan(read.loss_by_position["64"]) and math.isnan(read.lm_eval["arc"]["acc"])


def test_a_line_tells_what_is_no_number_from_what_was_not_measured() -> None:
    text = StepLine(step=3, loss=math.nan, grad_norm=math.inf).as_json()
    assert strict(text) == {"step": 3, "loss": None, "grad_norm": None}
    line = parse_line(text)
    assert line is not None and line.loss is not None and line.grad_norm is not None
    assert math.isnan(line.loss) and math.isnan(line.grad_norm)
    assert line.eval_loss is None
    assert line.as_json() == text
