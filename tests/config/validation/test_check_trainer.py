"""What cannot be done is refused before anything starts, with the key and the way out."""

from collections.abc import Callable

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.check_trainer import check_trainer_support

Compose = Callable[..., AppConfig]
ASKS_FOR_PACKAGES = (
    "sft_app.config.validation.check_trainer",
    "sft_app.config.validation.check_adapter",
)


@pytest.mark.parametrize(
    ("override", "way_out"),
    [
        ("+trainer.extra.fsdp=true", "trainer.parallelism=fsdp"),
        ("+trainer.extra.fsdp_config={version: 2}", "trainer.parallelism=fsdp"),
        ("+trainer.extra.deepspeed=zero3.json", "trainer.parallelism=fsdp"),
        ("+trainer.extra.parallelism_config={cp_size: 2}", "cannot see packed documents"),
        ("+trainer.extra.torch_compile_mode=default", "trainer.torch_compile"),
        ("+trainer.extra.torch_compile_backend=eager", "trainer.torch_compile"),
        ("+trainer.extra.use_liger_kernel=true", "trainer.loss_head=liger"),
        ("+trainer.extra.accelerator_config={split_batches: true}", "rows of its own"),
        ("+trainer.extra.accelerator_config={dispatch_batches: true}", "rows of its own"),
    ],
)
def test_what_is_not_right_is_refused(compose: Compose, override: str, way_out: str) -> None:
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(ConfigError, match=key) as refused:
        check_trainer_support(compose(override))
    assert way_out in str(refused.value)


@pytest.mark.parametrize("optim", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_an_optimizer_that_steps_before_gradients_can_be_looked_at_is_refused(
    compose: Compose, optim: str
) -> None:
    """Measured with their packages: weights change, the norm is 0, and nothing is clipped."""
    with pytest.raises(ConfigError, match=rf"trainer\.optim={optim} changes weights") as refused:
        check_trainer_support(compose(f"trainer.optim={optim}"))
    assert "trainer.optim=adafactor" in str(refused.value)


@pytest.mark.parametrize(
    "other", ["trainer.loss_head=model", "+trainer.extra.label_smoothing_factor=0.1"]
)
def test_weighted_losses_need_a_loss_that_weighs(compose: Compose, other: str) -> None:
    config = compose("trainer.loss_weighting=conversation", other)
    with pytest.raises(ConfigError, match=r"trainer\.loss_weighting=conversation"):
        check_trainer_support(config)


@pytest.mark.parametrize(
    ("override", "package"),
    [
        ("trainer.optim=adamw_bnb_8bit", "bitsandbytes"),
        ("trainer.optim=paged_lion_8bit", "bitsandbytes"),
        ("trainer.optim=adamw_torch_8bit", "torchao"),
        ("trainer.optim=galore_adamw", "galore-torch"),
        ("trainer.report_to=[tensorboard, wandb]", "wandb"),
        ("trainer.report_to=[mlflow]", "mlflow"),
        ("trainer.loss_head=liger", "liger-kernel"),
        ("adapter=lora", "'sft-app.lora.'"),
        ("adapter=qlora", "'sft-app.qlora.'"),
    ],
)
def test_a_missing_package_is_named(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, override: str, package: str
) -> None:
    config = compose(override)
    for module in ASKS_FOR_PACKAGES:
        monkeypatch.setattr(f"{module}.is_installed", lambda name: False)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        check_trainer_support(config)
    for module in ASKS_FOR_PACKAGES:
        monkeypatch.setattr(f"{module}.is_installed", lambda name: True)
    check_trainer_support(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.gradient_checkpointing_kwargs.every_n_layers=2"], "no effect without"),
        (
            [
                "trainer.gradient_checkpointing=true",
                "+trainer.gradient_checkpointing_kwargs.offload=true",
                "launch.device=cpu",
            ],
            "leave it out with launch.device=cpu",
        ),
        (["trainer.parallelism=fsdp", "trainer.fp16=true"], "trainer.bf16=true"),
        (
            ["trainer.auto_find_batch_size=true", "+trainer.extra.dataloader_drop_last=true"],
            "Leave one of them out",
        ),
        (["trainer.parallelism=fsdp", "trainer.optim=muon"], "trainer.parallelism=ddp"),
        (["trainer.parallelism=fsdp", "trainer.optim=adafactor"], "trainer.optim=adamw_torch_8bit"),
        (
            ["trainer.optim=paged_adamw_8bit", "launch.device=cpu"],
            "use trainer.optim=adamw_8bit with launch.device=cpu",
        ),
        (
            ["trainer.parallelism=fsdp", "trainer.optim=adamw_8bit"],
            "trainer.optim=adamw_torch_8bit",
        ),
        (
            ["trainer.parallelism=fsdp", "trainer.optim=apollo_adamw"],
            "trainer.optim=adamw_torch_8bit",
        ),
        (["trainer.optim=grokadamw"], "would be another training. Use trainer.optim=adamw_torch"),
        (["adapter=qlora", "trainer.parallelism=fsdp"], "trainer.parallelism=ddp, or adapter=lora"),
        (["adapter=lora", "adapter.double_quantization=false"], "choose adapter=qlora"),
        (["adapter=lora", "adapter.quantization=fp4"], "choose adapter=qlora"),
        (["trainer.report_to=[wandv]"], "Did you mean wandb"),
        (
            ["trainer.context_parallel_size=2", "launch.nproc_per_node=1"],
            r"there is 1: set launch\.nproc_per_node=2",
        ),
        (
            ["trainer.context_parallel_size=4", "launch.nproc_per_node=6"],
            r"there are 6: set launch\.nproc_per_node=4, or trainer\.context_parallel_size=3",
        ),
        (["trainer.context_parallel_size=2", "rope=dynamic"], "use rope=yarn"),
        (["trainer.context_parallel_size=2", "model.attn_implementation=sdpa"], "leave it out"),
        (
            ["trainer.context_parallel_size=2", "+trainer.extra.label_smoothing_factor=0.1"],
            "shifts the labels",
        ),
        (
            ["trainer.context_parallel_size=2", "+trainer.extra.neftune_noise_alpha=5"],
            "length of a shard",
        ),
        (["trainer.loss_head=liger", "launch.device=cpu"], "launch.device=cpu"),
        (["trainer.fsdp_replicas=2"], r"no effect without trainer\.parallelism=fsdp"),
        (
            [
                "trainer.fsdp_replicas=4",
                "trainer.parallelism=fsdp",
                "launch.nproc_per_node=3",
                "launch.nnodes=2",
            ],
            r"there are 6: set trainer\.fsdp_replicas=3",
        ),
        (["trainer.tiled_mlp=sometimes"], "Allowed: auto, true, false"),
        (
            ["trainer.tiled_mlp=true", "trainer.tensor_parallel_size=2"],
            r"tiled_mlp=true is not verified",
        ),
        (
            ["trainer.context_parallel_size=2", "trainer.torch_compile=true"],
            r"not verified with trainer\.torch_compile",
        ),
        (
            ["trainer.tensor_parallel_size=2", "launch.nproc_per_node=4"],
            "takes 2 processes in all, and there are 4",
        ),
        (
            ["trainer.tensor_parallel_size=2", "trainer.context_parallel_size=2"],
            r"not verified with trainer\.context_parallel_size=2",
        ),
        (
            ["trainer.tensor_parallel_size=2", "trainer.parallelism=fsdp"],
            r"not verified with trainer\.parallelism=fsdp",
        ),
        (["trainer.tensor_parallel_size=2", "adapter=lora"], r"not verified with adapter\.method"),
        (
            ["trainer.tensor_parallel_size=2", "trainer.fp16=true"],
            r"not verified with trainer\.fp16",
        ),
        (
            ["trainer.tensor_parallel_size=2", "trainer.optim=adafactor"],
            "use one of adamw_torch_fused, adamw_torch, sgd",
        ),
        (
            ["trainer.tensor_parallel_size=2", "+trainer.extra.accelerator_config={}"],
            "assigns batches",
        ),
    ],
)
def test_settings_that_exclude_each_other(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    for module in ASKS_FOR_PACKAGES:
        monkeypatch.setattr(f"{module}.is_installed", lambda name: True)
    names = "sft_app.config.validation.check_trainer.training_argument_names"
    monkeypatch.setattr(names, lambda: ["activation_checkpointing_kwargs"])
    with pytest.raises(ConfigError, match=message):
        check_trainer_support(compose(*overrides))


def test_parts_of_rows_go_with_a_multiple_of_their_number(compose: Compose) -> None:
    nodes = ("launch.nproc_per_node=2", "launch.nnodes=3")
    for size in (1, 2, 3, 6):
        check_trainer_support(compose(f"trainer.context_parallel_size={size}", *nodes))
    check_trainer_support(compose("trainer.context_parallel_size=4"))  # how many GPUs: seen later


def test_older_transformers_checkpoint_every_layer(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(
        "trainer.gradient_checkpointing=true",
        "+trainer.gradient_checkpointing_kwargs.every_n_layers=2",
    )
    names = "sft_app.config.validation.check_trainer.training_argument_names"
    monkeypatch.setattr(names, lambda: ["activation_checkpointing_kwargs"])
    check_trainer_support(config)
    monkeypatch.setattr(names, lambda: ["gradient_checkpointing_kwargs"])
    with pytest.raises(ConfigError, match=r"transformers 5\.23 or newer"):
        check_trainer_support(config)
