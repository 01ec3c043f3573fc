"""What is named when memory has run out: typed as it stands there, it needs what it says."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sft_app.config.schema.app import AppConfig
from sft_app.training.estimates.less_memory import remedies
from sft_app.training.model_plan import plan_model

Compose = Callable[..., AppConfig]
CPU = torch.device("cpu")


def test_each_remedy_needs_what_the_plan_says_of_its_overrides(
    compose: Compose, tiny_model: Path
) -> None:
    own = (
        f"model.name_or_path={tiny_model}", "context_length=64", "launch.device=cpu",
        "launch.nproc_per_node=1", "trainer.per_device_train_batch_size=4",
        "trainer.gradient_accumulation_steps=3",
    )  # fmt: skip
    config = compose(*own)
    plans = plan_model(config, CPU)
    found = remedies(config, plans, CPU)
    assert found == sorted(found, key=lambda remedy: remedy.needed)
    named = {remedy.overrides: remedy.needed for remedy in found}
    batch = "trainer.per_device_train_batch_size=1 trainer.gradient_accumulation_steps=12"
    here = {batch, "trainer.gradient_checkpointing=true", "adapter=lora"} & set(named)
    assert {batch, "trainer.gradient_checkpointing=true"} <= here
    assert "trainer.context_parallel_size=2 launch.nproc_per_node=2" in named
    for overrides in here - {"adapter=lora"}:
        planned = plan_model(compose(*own, *overrides.split()), CPU).memory.total
        assert named[overrides] == planned < plans.memory.total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [
        ("trainer.gradient_checkpointing=true", "gradient_checkpointing"),
        ("trainer.per_device_train_batch_size=1", "per_device_train_batch_size"),
        ("adapter=lora", "adapter"),
    ],
)
def test_what_is_used_or_refused_is_not_named(
    compose: Compose, tiny_model: Path, overrides: str, left_out: str
) -> None:
    config = compose(
        f"model.name_or_path={tiny_model}", "context_length=64", "launch.device=cpu", overrides
    )
    found = remedies(config, plan_model(config, CPU), CPU)
    assert not [remedy for remedy in found if left_out in remedy.overrides]


@pytest.mark.slow
def test_shards_are_named_where_the_optimizer_can_step_them(
    compose: Compose, tiny_model: Path
) -> None:
    """For a model of many layers: of a small one, more is gathered than is saved."""
    own = (f"model.name_or_path={tiny_model}", "context_length=64", "launch.device=cpu")
    plans = plan_model(compose(*own), CPU)
    deep = copy.deepcopy(plans.pretrained)
    deep.num_hidden_layers = 24
    plans = dataclasses.replace(plans, pretrained=deep)

    def shards(*overrides: str) -> list[str]:
        found = [remedy.overrides for remedy in remedies(compose(*own, *overrides), plans, CPU)]
        return [words for words in found if "fsdp" in words]

    assert shards() == ["trainer.parallelism=fsdp launch.nproc_per_node=2"]
    assert shards("trainer.optim=muon") == []
