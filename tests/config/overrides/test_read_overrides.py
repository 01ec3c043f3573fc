"""Words of a command line: wrong ones are answered with the right one; right ones as meant."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sft_app.common.errors import ConfigError
from sft_app.config.overrides.aliases import ALIASES
from sft_app.config.overrides.read_overrides import quoted, read_overrides
from sft_app.config.reference.describe_settings import all_settings


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("trainer.lerning_rate=1", "trainer.learning_rate"),
        ("learning_rate=1", r"write trainer\.learning_rate=1"),
        ("contxt_length=1", "context_length"),
        ("rope=yarnn", "rope=yarn"),
        ("+model.revison=x", "model.revision"),
        ("rope=linear,yarnn", "rope=yarn"),
        ("trainer.nonsense=1", "trainer.extra"),
        ("model.zzz=1", "name_or_path"),
        ("sweep.zzz=1", "name"),
    ],
)
def test_did_you_mean(override: str, suggestion: str) -> None:
    with pytest.raises(ConfigError, match=suggestion):
        read_overrides([override])


@pytest.mark.parametrize(
    ("override", "way_out"),
    [
        ("lr=1e-4", "write trainer.learning_rate=1e-4"),
        ("max_seq_length=4096", "write context_length=4096"),
        ("lora_r=8", "write adapter.rank=8"),
        ("model_name=org/name", "write model.name_or_path=org/name"),
        ("deepspeed=zero3.json", "write trainer.parallelism=fsdp"),
        ("data=chat.jsonl", "data.train=chat.jsonl"),
        ("data=org/chats", "data.train=org/chats"),
        ("model=./mine", "model.name_or_path=./mine"),
        ("yarn", "rope=yarn"),
        ("rope", "--help rope"),
        ("trainer=2", "trainer"),
        ("rope.method=yarnn", "rope.method=yarn"),
        ("trainer.save_strategy=never", "no, steps, epoch"),
        ("context_length=long", "whole number from 8"),
        ("context_length=1.5", "whole number"),
        ("context_length=null", "whole number"),
        ("seed=[1]", "whole number"),
        ("trainer.fp16=maybe", "true, false"),
        ("trainer.learning_rate=small", "number above 0"),
        ("data.train=glob(*)", "commas"),
        ("context_length=4096,huge", "huge"),
    ],
)
def test_near_misses_are_answered_with_what_works(override: str, way_out: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_overrides([override])
    assert way_out in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_others_call_a_setting_is_not_one_of_ours() -> None:
    ours = set(all_settings())
    assert not ours & {alias for aliases in ALIASES.values() for alias in aliases}
    known = {key for key in ALIASES if not key.startswith(("hydra.", "trainer.extra."))}
    assert known <= ours


@pytest.mark.parametrize(
    "override",
    [
        "context_length=4096,8192",
        "rope=glob(*)",
        "rope=linear,yarn",
        "experiment=null",
        "hydra.run.dir=/somewhere",
        "data.train=[{path: a.json, weight: 1.0}]",
        "~experiment",
        "trainer.learning_rate=1e-4",
        "trainer.num_train_epochs=3",
        "trainer.bf16=null",
        "context_length=range(1024,4096,1024)",
        "trainer.report_to=[tensorboard,wandb]",
        "tokenizer.model_max_length=${context_length}",
        "launch.nproc_per_node=auto",
    ],
)
def test_what_hydra_understands_passes_unchanged(override: str) -> None:
    assert read_overrides([override]) == [override]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("context_length=16k", "context_length=16384"),
        ("context_length=4K,1M", "context_length=4096,1048576"),
        ("sweep.tokens=10M", "sweep.tokens=10000000"),
        ("evaluation.lengths=[2k,4k]", "evaluation.lengths=[2048,4096]"),
        ("evaluation.lengths=auto", "evaluation.lengths=[]"),
        ("trainer.report_to=wandb", "trainer.report_to=[wandb]"),
        ("trainer.extra.debug=x", "++trainer.extra.debug=x"),
        ("trainer.extra={debug: x}", "++trainer.extra={debug: x}"),
        ("data.train=/a=b.json", "data.train='/a=b.json'"),
        ("data.train=/a[1].json", "data.train='/a[1].json'"),
        ("data.train=größe/ü.json", "data.train='größe/ü.json'"),
    ],
)
def test_values_are_read_as_they_are_meant(typed: str, read: str) -> None:
    assert read_overrides([typed]) == [read]


@pytest.mark.parametrize(
    "path", ["it's", "a=b", "{x}", "[x", "x\\", "\\'", "a,b", "ü ß", "(", "a: b", '"', "x'\\\\'"]
)
def test_any_path_can_be_quoted(path: str) -> None:
    override = OverridesParser.create().parse_override(f"data.train={quoted(path)}")
    assert override.value() == path


def test_several_values_need_a_sweep() -> None:
    with pytest.raises(ConfigError, match="--multirun"):
        read_overrides(["rope=linear,yarn"], may_sweep=False)


def test_options_of_a_users_own_folder_are_left_to_hydra() -> None:
    assert read_overrides(["rope=my_own"], own_options=True) == ["rope=my_own"]
