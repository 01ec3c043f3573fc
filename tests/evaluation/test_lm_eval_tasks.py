"""Tasks of lm-evaluation-harness: asked of the package where there is one, refused where not."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_app.common.errors import ConfigError
from sft_app.evaluation import lm_eval_tasks
from sft_app.evaluation.lm_eval_tasks import check_lm_eval, measure_lm_eval


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_tasks, "is_installed", lambda name: False)
    check_lm_eval([])
    with pytest.raises(ConfigError, match=r"lm_eval:arc_easy.*pip install 'sft-app\[lm-eval\]'"):
        check_lm_eval(["arc_easy"])


def test_the_model_in_memory_is_handed_over_and_numbers_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in with the package's names; the answer has the shape that 0.4 gives."""
    asked: dict[str, Any] = {}

    def simple_evaluate(model: object, tasks: list[str], task_manager: object) -> dict[str, Any]:
        asked.update(model=model, tasks=tasks)
        if "unknown" in tasks:
            raise KeyError("unknown")
        return {
            "results": {"arc_easy": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": "N/A"}}
        }

    class TaskManager:
        def load_task_or_group(self, tasks: list[str]) -> None:
            if tasks == ["unreachable"]:
                raise ConnectionError("Couldn't reach 'org/data'\non the Hub")

    package, models = ModuleType("lm_eval"), ModuleType("lm_eval.models")
    adapter, manager = ModuleType("lm_eval.models.huggingface"), ModuleType("lm_eval.tasks")
    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    adapter.HFLM = dict  # type: ignore[attr-defined]
    manager.TaskManager = TaskManager  # type: ignore[attr-defined]
    for module in (package, models, adapter, manager):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(lm_eval_tasks, "is_installed", lambda name: True)
    monkeypatch.setattr(lm_eval_tasks, "_task_manager", TaskManager)
    check_lm_eval(["arc_easy"])
    with pytest.raises(ConfigError, match=r"cannot run unreachable \(Couldn't reach 'org/data' on"):
        check_lm_eval(["arc_easy", "unreachable"])
    model: Any = object()
    tokenizer: Any = object()
    assert measure_lm_eval(model, tokenizer, ["arc_easy"]) == {"arc_easy": {"acc": 0.5}}
    assert asked["model"] == {"pretrained": model, "tokenizer": tokenizer}
    with pytest.raises(ConfigError, match="cannot run unknown"):
        measure_lm_eval(model, tokenizer, ["unknown"])


@pytest.mark.slow
def test_a_local_task_of_the_real_harness_runs_without_a_network(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six questions, answered by the likelier of two words; one of the hub is refused at once."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = [json.dumps({"q": f"Is {i} even? Answer:", "a": i % 2}) for i in range(6)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    task = {
        "task": "of_my_own", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "questions.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
        "doc_to_choice": ["yes", "no"], "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(task))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    said_yes = sum(likelier(model, tokenizer, f"Is {i} even? Answer:") == i % 2 for i in range(6))
    check_lm_eval([str(path)])
    found = measure_lm_eval(model, tokenizer, [str(path)])
    assert found["of_my_own"]["acc"] == pytest.approx(said_yes / 6)
    with pytest.raises(ConfigError, match=r"cannot run arc_easy \(Couldn't reach"):
        check_lm_eval(["arc_easy"])
    with pytest.raises(ConfigError, match="cannot run no_such_task"):
        check_lm_eval(["no_such_task"])


def likelier(model: Any, tokenizer: Any, question: str) -> int:
    """Which of " yes" and " no" has the larger probability after the question."""
    scores = []
    for answer in (" yes", " no"):
        begin = len(tokenizer(question)["input_ids"])
        ids = torch.tensor([tokenizer(question + answer)["input_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].log_softmax(-1)
        scores.append(sum(logits[i - 1, ids[0, i]].item() for i in range(begin, ids.shape[1])))
    return scores.index(max(scores))
