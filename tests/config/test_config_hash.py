"""The configuration's hash changes exactly when the outcome of the run can."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.evaluation import EvaluationConfig

Compose = Callable[..., AppConfig]

HASHES_OF_0_1_0 = [
    ([], "d6c5ace136e3edcef62700cc0ae1e14df296fecc9d4770de741a1601a68c533c"),
    (
        ["context_length=8192", "rope=yarn"],
        "e0139bec939ba7962b4edd0108d6c8c3aea3c0a1dbfcae44062464e2df15c462",
    ),
    (
        [
            "experiment=demo",  # with the evaluation of that version
            "evaluation.lengths=[]",
            "evaluation.max_documents=16",
            "evaluation.tasks=[passkey,niah_single,niah_multikey,variable_tracking]",
            "evaluation.samples=10",
        ],
        "7c539a7a337d98a09954037a4df6099436aa1d2b1d2a4a856203278da644540e",
    ),
    (
        [
            "experiment=context_sweep",
            "context_length=256",
            "rope=ntk",
            "sweep.lengths=[256,512]",
            "sweep.budget=steps",  # as in that version
            "sweep.supervised_tokens=null",
            "trainer.max_steps=30",
        ],
        "584237ebe927b18892919edb14992f4ffa3bf1abb44a8db3b26aca7c3036df25",
    ),
    (
        [
            "experiment=fastchat_vicuna",
            "data.train=org/chat",
            "tokenizer.chat_template=vicuna",  # as in that version
        ],
        "f116da0c9c218e673379614a4db92dbae830dd05b82941a05c4011d79bc51964",
    ),
    (
        ["experiment=vicuna_7b", "data.train=[{path: a.json, weight: 2.0}]", "adapter=lora"],
        "6ae044ae787458baab3a5461b26212f40f325440ae1eeab513088f460b025538",
    ),
    (
        ["experiment=lr_search", "trainer.learning_rate=1e-4", "seed=2"],
        "d0d8882c6b2a2b83b3e19f671244027a84f172cdc1185bba6cc72ef1aa49451b",
    ),
    (
        [
            "++trainer.extra.label_smoothing_factor=0.1",
            "evaluation=none",
            "adapter=qlora",
            "launch.nproc_per_node=2",
        ],
        "e2d7b17141a176daaab3b026e64b6f664dbac3931110bd38c2d9fc899f3dbb22",
    ),
    (
        [
            "rope=longrope",
            "rope.short_factor=[1.0]",
            "rope.long_factor=[2.0]",
            "data=custom",
            "data.train=x.json",
            "model=custom",
            "model.name_or_path=m",
            "trainer=debug",
        ],
        "842a50ed64b4645762200fcd35a3453c2da7ec7ffda781a34b3e0b8ae2429713",
    ),
]
"""Written down with version 0.1.0: a later one must find the finished runs of that version."""


@pytest.mark.parametrize(("overrides", "expected"), HASHES_OF_0_1_0)
def test_finished_runs_of_earlier_versions_stay_valid(
    compose: Compose, overrides: list[str], expected: str
) -> None:
    assert config_hash(compose(*overrides)) == expected


def test_a_new_setting_counts_only_where_it_differs_from_its_default(compose: Compose) -> None:
    @dataclass(kw_only=True)
    class WithNewSetting(EvaluationConfig):
        new: int = 3
        new_list: list[int] = field(default_factory=list)

    config = compose()
    before = config_hash(config)
    newer = WithNewSetting(**vars(config.evaluation))
    config.evaluation = newer
    assert config_hash(config) == before
    newer.new_list.append(1)
    assert config_hash(config) != before


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "context_length=99",
        "rope=yarn",
        "trainer.learning_rate=1",
        "data.eval_examples=3",
    ],
)
def test_what_changes_the_outcome_changes_the_hash(compose: Compose, override: str) -> None:
    assert config_hash(compose(override)) != config_hash(compose())


@pytest.mark.parametrize(
    "override",
    [
        "sweep.name=a",
        "data.num_proc=3",
        "model.cache_dir=/x",
        "launch.cpu_threads=1",
        "trainer.save_total_limit=9",
    ],
)
def test_what_cannot_change_it_does_not(compose: Compose, override: str) -> None:
    assert config_hash(compose(override)) == config_hash(compose())


def test_keys_are_told_apart_by_whether_they_can_change_the_outcome() -> None:
    from sft_app.config.config_hash import can_change_the_outcome

    assert can_change_the_outcome("trainer.learning_rate")
    assert can_change_the_outcome("context_length")
    assert not can_change_the_outcome("launch.rdzv_endpoint")
    assert not can_change_the_outcome("sweep.lengths")


def test_another_budget_of_supervised_tokens_is_another_run(
    compose: Callable[..., AppConfig],
) -> None:
    hashes = {
        config_hash(compose("sweep.budget=supervised", f"sweep.supervised_tokens={number}"))
        for number in (1000, 2000)
    }
    assert len(hashes) == 2
