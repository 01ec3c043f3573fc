"""The configuration's hash changes exactly when the outcome of the run can."""

from collections.abc import Callable

import pytest

from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig

Compose = Callable[..., AppConfig]


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
