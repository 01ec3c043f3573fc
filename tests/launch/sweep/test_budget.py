"""Equal training at every context length: tokens per optimizer step, and in all."""

from collections.abc import Callable

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.prepare_run import as_started
from sft_app.launch.sweep.budget import (
    apply_budget,
    describe_budget,
    shared_settings,
    shared_tokens_per_step,
    tokens_per_step,
    with_shared,
)

Compose = Callable[..., AppConfig]
BASE = ("launch.device=cpu", "trainer.gradient_accumulation_steps=4")


def test_shorter_contexts_get_more_rows(compose: Compose) -> None:
    shared = "sweep.tokens_per_step=65536"
    jobs = [
        apply_budget(
            compose("sweep=fair", "trainer.max_steps=10", shared, f"context_length={n}", *BASE)
        )
        for n in (4096, 8192, 16384)
    ]
    assert [tokens_per_step(job) for job in jobs] == [65536] * 3
    assert [job.trainer.per_device_train_batch_size for job in jobs] == [4, 2, 1]
    assert [job.trainer.gradient_accumulation_steps for job in jobs] == [4, 4, 4]
    assert "655,360 tokens in all" in describe_budget(jobs)


def test_processes_share_a_step(compose: Compose) -> None:
    job = apply_budget(
        compose(
            "sweep=fair",
            "trainer.max_steps=10",
            "sweep.tokens_per_step=65536",
            "context_length=4096",
            "launch.nproc_per_node=2",
            *BASE,
        )
    )
    assert tokens_per_step(job) == 65536
    assert job.trainer.per_device_train_batch_size == 2


def test_one_run_keeps_to_its_budget_as_a_job_of_a_sweep_does(compose: Compose) -> None:
    """8 rows of 512 tokens a step; 10 steps of them, whatever an epoch has."""
    words = ("sweep.budget=tokens", "sweep.tokens=40960", "context_length=512")
    started = as_started(compose(*words, "launch.device=cpu"))
    assert tokens_per_step(started) == 4096
    assert started.trainer.max_steps == 10
    assert as_started(started) == started


def test_what_jobs_share_follows_from_the_longest(compose: Compose) -> None:
    jobs = [compose("sweep=fair", "trainer.max_steps=9", f"context_length={n}", *BASE)
            for n in (1024, 4096)]  # fmt: skip
    shared = shared_settings(jobs)
    assert shared == {"lengths": [1024, 4096], "heldout_length": 1024, "tokens_per_step": 16384}
    settled = [with_shared(job, shared) for job in jobs]
    assert [job.trainer.per_device_train_batch_size for job in settled] == [4, 1]
    assert {tuple(job.sweep.lengths) for job in settled} == {(1024, 4096)}


@pytest.mark.parametrize("shared", ["context_parallel_size=4", "tensor_parallel_size=4"])
def test_processes_that_share_their_rows_count_once(compose: Compose, shared: str) -> None:
    job = compose("context_length=4096", "launch.nproc_per_node=4", f"trainer.{shared}", *BASE)
    assert tokens_per_step(job) == 4 * 4096
    step = ("sweep=fair", "trainer.max_steps=10", "sweep.tokens_per_step=65536")
    budgeted = apply_budget(
        compose(*step, "context_length=4096", "launch.nproc_per_node=4", f"trainer.{shared}", *BASE)
    )
    assert tokens_per_step(budgeted) == 65536
    assert budgeted.trainer.per_device_train_batch_size == 4


def test_the_longest_context_sets_the_step_unless_told(compose: Compose) -> None:
    jobs = [compose(f"context_length={n}", *BASE) for n in (64, 512, 128)]
    assert shared_tokens_per_step(jobs) == 512 * 4


def test_a_budget_in_tokens_becomes_steps(compose: Compose) -> None:
    job = apply_budget(
        compose("sweep.budget=tokens", "sweep.tokens=100000", "context_length=512", *BASE)
    )
    assert job.trainer.max_steps == 49  # 2,048 tokens each: the first number that reaches it


def test_a_budget_in_epochs_leaves_the_steps_to_the_data(compose: Compose) -> None:
    job = apply_budget(compose("sweep.budget=epochs", "context_length=512", *BASE))
    assert job.trainer.max_steps == -1


def test_without_a_budget_nothing_is_touched(compose: Compose) -> None:
    config = compose("context_length=512")
    assert apply_budget(config) is config


@pytest.mark.parametrize(
    ("overrides", "in_message"),
    [
        (["sweep.budget=tokens"], "sweep.tokens="),
        (["sweep.budget=steps"], "trainer.max_steps=100"),
        (["sweep.budget=epochs", "trainer.max_steps=5"], "sweep.budget=steps"),
        (["sweep.budget=epochs", "data.overlong=drop"], "data.overlong=split"),
        (["sweep.budget=supervised"], "sweep.supervised_tokens="),
        (
            ["sweep.budget=supervised", "sweep.supervised_tokens=9000", "trainer.max_steps=5"],
            "sweep.budget=steps",
        ),
        (["sweep=fair", "trainer.max_steps=5", "data.packing=none"], "data.packing=best_fit"),
        (["sweep=fair", "trainer.max_steps=5", "sweep.tokens_per_step=1000"], "multiple of 2048"),
    ],
)
def test_what_cannot_be_equal_is_refused(
    compose: Compose, overrides: list[str], in_message: str
) -> None:
    with pytest.raises(ConfigError, match=in_message):
        apply_budget(compose("context_length=2048", *overrides))
