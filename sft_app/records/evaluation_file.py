"""eval.json of an evaluation's folder, and what its workers are asked for beside the settings."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.common import strict_json
from sft_app.records.result import Evaluation, evaluation_from_dict
from sft_app.records.run_files import EVALUATION, write_atomically

REQUEST = ".request.json"


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Says which settings the user gave, for those whose default is another one here."""

    own_context: bool
    """No context_length was given: the model's own is taken."""
    conversations: bool
    """Data were named: their held-out conversations are measured."""

    def write(self, directory: Path) -> None:
        """Write it where `read_request` looks."""
        write_atomically(directory / REQUEST, json.dumps(dataclasses.asdict(self)))


def read_request(directory: Path) -> EvaluationRequest:
    """Read what `EvaluationRequest.write` wrote; everything given where there is none."""
    path = directory / REQUEST
    if not path.is_file():
        return EvaluationRequest(own_context=False, conversations=True)
    return EvaluationRequest(**json.loads(path.read_text(encoding="utf-8")))


def write_evaluation(directory: Path, evaluation: Evaluation, about: dict[str, Any]) -> None:
    """Write eval.json: `about` (model, context_length, ...), then the keys of an Evaluation."""
    text = strict_json.dumps({**about, **dataclasses.asdict(evaluation)}, indent=2)
    write_atomically(directory / EVALUATION, text + "\n")


def read_about(directory: Path) -> dict[str, Any]:
    """Return what eval.json says beside the measurements; raises ValueError as read_evaluation."""
    path = directory / EVALUATION
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        measurements = {field.name for field in dataclasses.fields(Evaluation)}
        return {key: value for key, value in raw.items() if key not in measurements}
    except (OSError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable evaluation: {error}") from error


def read_evaluation(directory: Path) -> Evaluation:
    """Read eval.json; raises ValueError when it is missing or not readable."""
    path = directory / EVALUATION
    try:
        return evaluation_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable evaluation: {error}") from error
