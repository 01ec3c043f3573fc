"""A setting that changes nothing is said, with the reason."""

from collections.abc import Callable

import pytest

from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.without_effect import (
    settings_of_a_sweep,
    settings_without_effect,
    without_effect_anywhere,
)

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
        (
            ["+trainer.extra.per_device_eval_batch_size=4"],
            "per_device_eval_batch_size=4 has no effect: the application measures held-out loss",
        ),
        (
            ["trainer.optim=muon", "+trainer.extra.optim_args='momentum=0.9'"],
            "trainer.extra.optim_args has no effect with trainer.optim=muon",
        ),
        (["data.eval=org/data", "data.eval_examples=5"], "data.eval_examples=5"),
        (["rope=yarn", "rope.factor=4", "rope.factor_rounding=exact"], "with rope.factor=4."),
        (["rope=none", "rope.factor_rounding=exact"], "rope.factor_rounding=exact has no effect"),
        (["plan.gpus=8"], "plan.gpus=8 has no effect with plan.gpu=null."),
        (["trainer.save_strategy=no", "trainer.save_total_limit=5"], "save_total_limit=5"),
        (
            ["trainer.lr_scheduler_type=constant", "trainer.warmup_steps=10"],
            "trainer.warmup_steps=10.0 has no effect with trainer.lr_scheduler_type=constant",
        ),
        (["trainer.optim=adafactor", "trainer.adam_beta2=0.95"], "with trainer.optim=adafactor."),
        (["evaluation=none", "evaluation.lengths=[64]"], "evaluation.lengths=[64] has no effect"),
        (["evaluation.max_windows=4"], "no effect with evaluation.stride=null."),
        (
            ["evaluation.tasks=[]", "evaluation.scoring=generate", "evaluation.samples=10"],
            "scoring",
        ),
        (
            ["data.overlong=drop", "data.overlong_question=drop"],
            "no effect with data.overlong=drop",
        ),
        (["sweep.supervised_tokens=5"], "sweep.supervised_tokens=5 has no effect with sweep.b"),
        (["sweep.tokens_per_step=512"], "sweep.tokens_per_step=512 has no effect with sweep.b"),
        (["sweep.keep_one_in=2"], "no effect with sweep.rungs=1."),
    ],
)
def test_it_is_said(compose: Compose, overrides: list[str], said: str) -> None:
    (note,) = settings_without_effect(compose(*overrides))
    assert said in note


def test_what_has_an_effect_is_not_mentioned(compose: Compose) -> None:
    assert settings_without_effect(compose()) == []
    assert settings_without_effect(compose("rope=yarn", "rope.factor=4", "adapter=lora")) == []


def test_in_a_sweep_it_is_said_when_it_holds_in_every_job(compose: Compose) -> None:
    some = [compose("rope=none", "rope.factor=4"), compose("rope=yarn", "rope.factor=4")]
    assert without_effect_anywhere(some) == []
    every = [compose(f"seed={seed}", "adapter.rank=8") for seed in (1, 2)]
    assert without_effect_anywhere(every) == [
        "adapter.rank=8 has no effect with adapter.method=none."
    ]


def test_what_a_sweep_alone_keeps_to_is_said_of_a_single_run(compose: Compose) -> None:
    (note,) = settings_of_a_sweep(compose("sweep.name=lengths"))
    assert note == "sweep.name=lengths has no effect with a single run, without --multirun."
