"""Every option of every group, and every recipe, composes into the typed configuration."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sft_app.common.errors import ConfigError
from sft_app.config.conf_files import conf_dir, group_options
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig, load_config, save_config
from sft_app.config.validation.check_adapter import PACKAGES
from sft_app.config.validation.check_secrets import check_folder_name, check_hydra_secrets
from sft_app.config.validation.validate import validate
from tests.newer_transformers import skip_if_it_needs_sharded_models

Compose = Callable[..., AppConfig]

GROUPS = sorted(d.name for d in conf_dir().iterdir() if d.is_dir() and any(d.glob("*.yaml")))

# What `make sweep` and `make leaderboard` make before they start.
TINY_DATA = ["data.train=org/data", "data.eval=org/data"]
TINY_MODEL = ["model.name_or_path=org/model"]

NEEDED = {
    ("rope", "longrope"): ["rope.short_factor=[1.0]", "rope.long_factor=[2.0]"],
    ("model", "custom"): ["model.name_or_path=org/model"],
    ("data", "custom"): ["data.train=org/data"],
    ("experiment", "vicuna_7b"): ["data.train=org/data"],
    ("model", "tiny_llama"): TINY_MODEL,
    ("data", "tiny_llama"): TINY_DATA,
    ("model", "needle_llama"): TINY_MODEL,
    ("data", "needle_llama"): TINY_DATA,
    ("experiment", "leaderboard"): [*TINY_MODEL, *TINY_DATA],
    ("experiment", "leaderboard_quick"): [*TINY_MODEL, *TINY_DATA],
    ("experiment", "context_sweep"): [*TINY_MODEL, *TINY_DATA],
    ("experiment", "lr_search"): [*TINY_MODEL, *TINY_DATA],
}
"""What an option cannot know by itself."""


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in group_options(g)])
def test_every_option_composes_and_validates(
    compose: Compose, group: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, AdapterMethod.qlora, ())  # whether its extra is installed or not
    config = compose(f"{group}={option}", *NEEDED.get((group, option), []))
    skip_if_it_needs_sharded_models(config)
    validate(config)


def test_the_context_length_is_the_one_knob(compose: Compose) -> None:
    config = compose("context_length=8192")
    assert config.tokenizer.model_max_length == 8192


def test_an_experiment_overrides_the_root_values(compose: Compose) -> None:
    assert compose("experiment=demo").context_length == 512


def test_the_command_line_overrides_an_experiment(compose: Compose) -> None:
    assert compose("experiment=demo", "context_length=96").context_length == 96


def test_a_saved_configuration_reads_back_equal(compose: Compose, tmp_path: Path) -> None:
    config = compose("experiment=demo", "rope=yarn", "+trainer.extra.debug=x")
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["context_length=4"], "context_length"),
        (["tokenizer.model_max_length=16"], "tokenizer.model_max_length"),
        (["model.name_or_path=/no/such/dir"], "model.name_or_path"),
        (["model.name_or_path=pkg://no_such_package/x.gguf"], "no_such_package"),
        (["data.train=missing.json"], "data.train"),
        (["data.train=missing/*.jsonl"], "data.train"),
        (["data.train=[1]"], "data.train"),
        (["data.eval_examples=0", "evaluation.tasks=[]"], "data.eval"),
        (["sweep.best_by=cliff", "evaluation=none"], "set evaluation=default"),
        (["evaluation.tasks=[pass_key]"], "pass_key is not known. Did you mean passkey?"),
        (["evaluation.samples=0"], "evaluation.samples=0"),
        (["evaluation.scoring=generate", "trainer.parallelism=fsdp"], "evaluation.scoring=forced"),
        (["rope=longrope"], "rope.short_factor"),
        (["rope=linear", "rope.beta_fast=3"], "rope.beta_fast"),
        (["rope=linear", "rope.factor=0.5"], "rope.factor"),
        (["trainer.optim=adamw_torchh"], "adamw_torch"),
        (["trainer.lr_scheduler_type=cosin"], "cosine"),
        (["trainer.max_steps=0"], "trainer.max_steps"),
        (["trainer.bf16=true", "trainer.fp16=true"], "trainer.fp16"),
        (["+trainer.extra.label_smoothing=0.1"], "label_smoothing_factor"),
        (["+trainer.extra.learning_rate=0.1"], "trainer.learning_rate"),
        (["+trainer.extra.output_dir=x"], "hydra.run.dir"),
        (["+trainer.extra.logging_nan_inf_filter=true"], "trainer.extra.logging_nan_inf_filter"),
        (["+trainer.extra.average_tokens_across_devices=false"], "average_tokens"),
        (["+trainer.extra.activation_checkpointing=true"], "trainer.gradient_checkpointing"),
        (["+trainer.extra.load_best_model_at_end=true"], "trainer.load_best_model_at_end"),
        (["trainer.load_best_model_at_end=true"], "trainer.eval_strategy=steps"),
        (["trainer.early_stopping_patience=2"], "trainer.eval_strategy=steps"),
        (["trainer.eval_steps=5"], "trainer.eval_strategy=steps"),
        (["trainer.eval_strategy=epoch", "trainer.eval_steps=5"], "trainer.eval_steps=5"),
        (["trainer.eval_strategy=epoch", "data.eval_examples=0"], "data.eval_examples=200"),
        (
            [
                "trainer.eval_strategy=epoch",
                "trainer.load_best_model_at_end=true",
                "trainer.save_strategy=no",
            ],
            "trainer.save_strategy=no",
        ),
        (["data.train=[{path: org/data, wieght: 2}]"], "wieght"),
        (["trainer.resume_from_checkpoint=/nowhere"], "trainer.resume_from_checkpoint"),
        (["launch.nproc_per_node=many"], "launch.nproc_per_node"),
        (["launch.nnodes=2"], "launch.rdzv_endpoint"),
        (["tokenizer.padding_side=left", "data.packing=best_fit"], "data.packing"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    compose: Compose, overrides: list[str], named: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        validate(compose(*overrides))
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({"MY_TOKEN": "hunter2"}, True),
        ({"PROXY": "https://user:hunter2@host"}, True),
        ({"MY_TOKEN": "${oc.env:SOME_TOKEN}", "PROXY": "https://host"}, False),
    ],
)
def test_hydras_own_words_hold_no_secret(environment: dict[str, str], refused: bool) -> None:
    """.hydra/hydra.yaml holds them all, and no folder is named after one."""
    config = OmegaConf.create({"hydra": {"job": {"env_set": environment}}})
    if not refused:
        check_hydra_secrets(config)
        return
    with pytest.raises(ConfigError, match=r"hydra\.job\.env_set.*oc\.env") as refusal:
        check_hydra_secrets(config)
    assert "hunter2" not in str(refusal.value)


def test_no_folder_is_named_after_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2hunter2")
    with pytest.raises(ConfigError, match="names a folder after a secret"):
        check_folder_name("hydra.run.dir", Path("runs/hunter2hunter2"))
    check_folder_name("hydra.run.dir", Path("runs/mine"))


@pytest.mark.parametrize(
    "override",
    [
        "+trainer.extra.hub_token=hunter2",
        "data.train=https://user:hunter2@host/chat.json",
        "data.train=[{path: 'https://user:hunter2@host/chat.json', weight: 2}]",
    ],
)
def test_secrets_come_from_the_environment_only(
    compose: Compose, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"oc\.env") as refusal:
        validate(compose(override))
    assert "hunter2" not in str(refusal.value)
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    validate(compose("+trainer.extra.hub_token=${oc.env:SOME_TOKEN}"))
