"""Tasks of lm-evaluation-harness: asked of the package where there is one, refused where not."""

import sys
from types import ModuleType
from typing import Any

import pytest

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

    def simple_evaluate(model: object, tasks: list[str]) -> dict[str, Any]:
        asked.update(model=model, tasks=tasks)
        if "unknown" in tasks:
            raise KeyError("unknown")
        return {
            "results": {"arc_easy": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": "N/A"}}
        }

    package, models = ModuleType("lm_eval"), ModuleType("lm_eval.models")
    adapter = ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    adapter.HFLM = dict  # type: ignore[attr-defined]
    for module in (package, models, adapter):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    model: Any = object()
    tokenizer: Any = object()
    assert measure_lm_eval(model, tokenizer, ["arc_easy"]) == {"arc_easy": {"acc": 0.5}}
    assert asked["model"] == {"pretrained": model, "tokenizer": tokenizer}
    with pytest.raises(ConfigError, match="cannot run unknown"):
        measure_lm_eval(model, tokenizer, ["unknown"])
