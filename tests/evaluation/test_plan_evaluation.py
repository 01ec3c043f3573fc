"""What is measured: which tasks are left out where they do not fit, and which are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.evaluation.plan_evaluation import EvaluationPlan, plan_evaluation
from sft_app.loader.rope.rope_plan import plan_rope

Plan = Callable[..., EvaluationPlan]


@pytest.fixture
def plan(compose: Callable[..., AppConfig], tiny_model: Path) -> Plan:
    """Of a model whose tokens are bytes; no conversations."""

    def planned(*overrides: str) -> EvaluationPlan:
        config = compose("context_length=64", "evaluation.max_documents=1", *overrides)
        hf_config = AutoConfig.from_pretrained(tiny_model)
        rope = plan_rope(hf_config, 64, config.rope)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        return plan_evaluation(config, None, tokenizer, rope, hf_config)

    return planned


@pytest.mark.parametrize("option", ["long", "default"])
def test_tasks_of_an_option_are_left_out_where_they_do_not_fit(plan: Plan, option: str) -> None:
    tasks = plan(f"evaluation={option}", "evaluation.lengths=[400,700]").tasks
    assert tasks is not None
    assert ("passkey", 700) in tasks.pairs()
    assert ("common_words", 700) not in tasks.pairs()


def test_tasks_that_were_named_are_refused_where_they_fit_no_length(plan: Plan) -> None:
    with pytest.raises(ConfigError, match=r"common_words .* does not fit 700 tokens"):
        plan("evaluation.tasks=[passkey,common_words]", "evaluation.lengths=[400,700]")


@pytest.mark.parametrize("option", ["long", "default"])
def test_lengths_below_every_needle_are_refused(plan: Plan, option: str) -> None:
    with pytest.raises(ConfigError, match=r"lengths=\[16, 40\]: none of the tasks fits"):
        plan(f"evaluation={option}", "evaluation.lengths=[16,40]")


def test_a_task_that_is_named_twice_is_measured_once(plan: Plan) -> None:
    tasks = plan("evaluation.tasks=[passkey,passkey]", "evaluation.lengths=[700,700]").tasks
    assert tasks is not None and tasks.pairs() == [("passkey", 700)]
