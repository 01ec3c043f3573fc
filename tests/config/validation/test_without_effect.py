"""A setting that changes nothing is said, with the reason."""

from collections.abc import Callable

import pytest

from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.without_effect import settings_without_effect

Compose = Callable[..., AppConfig]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rope=none", "rope.factor=4"], "rope.factor=4.0 has no effect with rope.method=none."),
        (["adapter.rank=8"], "adapter.rank=8 has no effect with adapter.method=none."),
        (["trainer.save_strategy=epoch", "trainer.save_steps=7"], "trainer.save_steps=7"),
        (["trainer.max_steps=5", "trainer.num_train_epochs=3"], "trainer.num_train_epochs=3"),
        (["sweep.tokens=5"], "sweep.budget=own"),
        (
            ["model.name_or_path=.", "model.revision=v2"],
            "model.revision=v2 has no effect with a mod",
        ),
        (["launch.rdzv_endpoint=node0:29500"], "no effect with launch.nnodes=1"),
        (["trainer.loss_spike_window=9"], "no effect with trainer.on_loss_spike=ignore"),
        (
            ["trainer.on_loss_spike=stop", "trainer.max_rewinds=9"],
            "trainer.max_rewinds=9 has no effect with trainer.on_loss_spike=stop",
        ),
        (["data.eval=org/data", "data.eval_examples=5"], "data.eval_examples=5"),
    ],
)
def test_it_is_said(compose: Compose, overrides: list[str], said: str) -> None:
    (note,) = settings_without_effect(compose(*overrides))
    assert said in note


def test_what_has_an_effect_is_not_mentioned(compose: Compose) -> None:
    assert settings_without_effect(compose()) == []
    assert settings_without_effect(compose("rope=yarn", "rope.factor=4", "adapter=lora")) == []
