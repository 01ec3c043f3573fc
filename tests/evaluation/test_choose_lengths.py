"""Lengths: below, at and beyond what was trained, as far as the positions reach."""

from collections.abc import Callable

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.evaluation import DEFAULT_TASKS, TASK_NAMES
from sft_app.config.schema.rope import RopeConfig
from sft_app.evaluation.choose_lengths import choose_lengths
from sft_app.loader.rope.rope_plan import plan_rope
from tests.training.random_models import build_random_model

Compose = Callable[..., AppConfig]


def lengths_of(config: AppConfig, family: str) -> tuple[int, ...]:
    hf_config = build_random_model(family).config
    rope = plan_rope(hf_config, min(config.context_length, 256), RopeConfig())
    return choose_lengths(config, rope, hf_config).values


def test_the_window_before_and_twice_the_trained_length_are_measured(compose: Compose) -> None:
    assert lengths_of(compose("context_length=1024"), "llama") == (256, 512, 1024, 2048)
    assert lengths_of(compose("context_length=256"), "llama") == (64, 128, 256, 512)


def test_the_default_tasks_are_those_of_the_default_option(compose: Compose) -> None:
    assert tuple(compose().evaluation.tasks) == DEFAULT_TASKS
    assert set(compose("evaluation=long").evaluation.tasks) == set(TASK_NAMES)


def test_all_jobs_of_a_sweep_are_measured_at_the_same_lengths(compose: Compose) -> None:
    for length in (128, 256):
        config = compose(f"context_length={length}", "sweep.lengths=[128,256]")
        assert lengths_of(config, "llama") == (128, 256, 512)


def test_short_jobs_of_a_sweep_are_spared_the_long_lengths(compose: Compose) -> None:
    sweep = ("evaluation.lengths=[64,128,256,512]", "evaluation.max_times_context=2")
    assert lengths_of(compose("context_length=128", *sweep), "llama") == (64, 128, 256)
    assert lengths_of(compose("context_length=256", *sweep), "llama") == (64, 128, 256, 512)
    derived = compose("context_length=128", "sweep.lengths=[128,256]", sweep[1])
    assert lengths_of(derived, "llama") == (128, 256)
    with pytest.raises(ConfigError, match=r"max_times_context=2: .* is above 48 tokens"):
        lengths_of(compose("context_length=24", *sweep), "llama")


@pytest.mark.parametrize(
    ("family", "obstacle"),
    [("gpt2", "position table ends at 256"), ("mistral", "further back than 12 can arrive")],
)
def test_what_the_model_cannot_reach_is_refused_or_left_out(
    compose: Compose, family: str, obstacle: str
) -> None:
    with pytest.raises(ConfigError, match=rf"cannot read 512 tokens, for .*{obstacle}"):
        lengths_of(compose("evaluation.lengths=[512]"), family)
    derived = lengths_of(compose("context_length=256"), family)
    assert max(derived, default=0) <= 256
