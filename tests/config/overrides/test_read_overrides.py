"""Words of a command line: wrong ones are answered with the right one; right ones as meant."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sft_app.common.errors import ConfigError
from sft_app.config.command_line import separate
from sft_app.config.overrides.aliases import ALIASES, OUR_NAME
from sft_app.config.overrides.elsewhere import ELSEWHERE
from sft_app.config.overrides.key_names import is_inside_open_setting
from sft_app.config.overrides.read_overrides import quoted, read_overrides
from sft_app.config.overrides.value_types import AMOUNTS, LENGTHS
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
        ("trainer.learning_rate", "write trainer.learning_rate=value, without spaces"),
        ("trainer=2", "trainer"),
        ("rope.method=yarnn", "rope.method=yarn"),
        ("trainer.save_strategy=never", "no, steps, epoch"),
        ("context_length=long", "whole number from 8"),
        ("model.dtype=bf16", "Did you mean model.dtype=bfloat16?"),
        ("data.packing=true", "Did you mean data.packing=best_fit?"),
        ("data.format=chatml", "Did you mean data.format=messages?"),
        ("trainer.loss_head=cce", "Did you mean trainer.loss_head=chunked?"),
        ("context_length=1.5", "whole number"),
        ("context_length=null", "whole number"),
        ("seed=[1]", "whole number"),
        ("trainer.fp16=maybe", "true, false"),
        ("trainer.learning_rate=small", "number above 0"),
        ("data.train=glob(*)", "commas"),
        ("context_length=4096,huge", "huge"),
        ("context_length=16kb", "Did you mean context_length=16k?"),
        ("context_length=128 K", "Did you mean context_length=128K?"),
        ("context_length=64KiB", "Did you mean context_length=64K?"),
        ("context_length=0.3k", "such as 8192 or 16k"),
        ("context_length=1B", "such as 8192 or 16k"),
        ("sweep.tokens=lots", "such as 1000000 or 10M"),
        ("evaluation.lengths=2k,4k", "such as [8192, 16k]"),
    ],
)
def test_near_misses_are_answered_with_what_works(override: str, way_out: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_overrides([override])
    assert way_out in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        # axolotl
        ("sequence_len=8192", "write context_length=8192"),
        ("sample_packing=true", "write data.packing=best_fit"),
        ("load_in_4bit=true", "write adapter=qlora"),
        ("lora_target_linear=true", "write adapter.target_modules=all-linear"),
        ("flash_attention=true", "write model.attn_implementation=auto"),
        ("dataset_prepared_path=x", "data.cache_dir"),
        ("train_on_inputs=false", "only the assistant's turns are learned"),
        ("wandb_project=mine", "WANDB_PROJECT"),
        # LLaMA-Factory
        ("cutoff_len=16k", "write context_length=16k"),
        ("finetuning_type=full", "write adapter=none"),
        ("lora_target=all", "write adapter.target_modules=all-linear"),
        ("val_size=0.1", "write data.eval_examples="),
        ("rope_scaling=dynamic", "write rope=dynamic"),
        ("enable_liger_kernel=true", "write trainer.loss_head=liger"),
        ("do_train=true", "leave it out"),
        # torchtune
        ("tokenizer.max_seq_len=4096", "write context_length=4096"),
        ("tokenizer.path=/t", "write tokenizer.name_or_path=/t"),
        ("optimizer.lr=1e-5", "write trainer.learning_rate=1e-5"),
        ("enable_activation_checkpointing=true", "write trainer.gradient_checkpointing=true"),
        ("enable_activation_offloading=true", "trainer.gradient_checkpointing_kwargs.offload=true"),
        ("dtype=bf16", "write model.dtype=bfloat16"),
        ("clip_grad_norm=1.0", "write trainer.max_grad_norm=1.0"),
        # TRL, FastChat, verl
        ("max_length=2048", "write context_length=2048"),
        ("torch_dtype=torch.bfloat16", "write model.dtype=bfloat16"),
        ("padding_free=true", "write data.packing=best_fit"),
        ("assistant_only_loss=true", "only the assistant's turns are learned"),
        ("warmup_ratio=0.03", "write trainer.warmup_steps=0.03"),
        ("evaluation_strategy=no", "write trainer.eval_strategy=no"),
        ("q_lora=True", "write adapter=qlora"),
        ("lazy_preprocess=True", "data.cache_dir"),
        ("data.train_files=a.parquet", "write data.train=a.parquet"),
        ("ulysses_sequence_parallel_size=4", "write trainer.context_parallel_size=4"),
        ("trainer.total_epochs=3", "write trainer.num_train_epochs=3"),
        # ours, or transformers', without the group
        ("weight_decay=0.1", "Did you mean trainer.weight_decay=0.1?"),
        ("cache_dir=/c", "model.cache_dir=/c or data.cache_dir=/c"),
        ("Learning_Rate=1", "write trainer.learning_rate=1"),
        ("learning-rate=1", "write trainer.learning_rate=1"),
        ("label_smoothing_factor=0.1", "Did you mean trainer.extra.label_smoothing_factor=0.1?"),
    ],
)
def test_what_other_trainers_say_is_answered_with_what_stands_here(
    elsewhere: str, here: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_overrides([elsewhere])
    assert here in str(refusal.value)


@pytest.mark.parametrize("value", ["true", "false", "4", "0.5", "some/where.json", "default"])
def test_what_is_suggested_for_another_tools_word_is_accepted_here(value: str) -> None:
    for alias in OUR_NAME:
        with pytest.raises(ConfigError) as refusal:
            read_overrides([f"{alias}={value}"])
        suggested = str(refusal.value).partition(": write ")[2]
        if suggested.startswith("hydra.") or suggested.endswith(("=...", "=(to be given)")):
            continue
        read_overrides([suggested.replace("='", "=").removesuffix("'")])


def test_every_number_of_tokens_may_be_written_with_its_unit() -> None:
    counts_tokens = {
        key
        for key, setting in all_settings().items()
        if "whole number" in setting.kind and "token" in setting.meaning.lower().split(".")[0]
    }
    others = {"data.preview", "data.num_proc", "sweep.rungs", "trainer.per_device_train_batch_size"}
    assert counts_tokens - others <= {*LENGTHS, *AMOUNTS}
    for key in (*LENGTHS, *AMOUNTS):
        assert read_overrides([f"{key}=0.5M"]) != [f"{key}=0.5M"]


def test_thousands_with_commas_are_no_sweep() -> None:
    with pytest.raises(ConfigError, match=r"context_length=16384; --multirun"):
        read_overrides(["context_length=16,384"], may_sweep=False)


def test_what_others_call_a_setting_is_not_one_of_ours() -> None:
    ours = set(all_settings())
    assert not ours & {alias for aliases in ALIASES.values() for alias in aliases}
    for key in ALIASES:
        assert key in ours or key.startswith("hydra.") or is_inside_open_setting(key)
    assert not set(ELSEWHERE) & (ours | {alias for names in ALIASES.values() for alias in names})


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
        ("hydra.run.dir=~/runs/a b", "hydra.run.dir='/home/me/runs/a b'"),
        ("hydra.sweep.dir=~/sweeps", "hydra.sweep.dir='/home/me/sweeps'"),
        ("hydra.run.dir=~nobody-here/a", "hydra.run.dir='~nobody-here/a'"),
        ("hydra.run.dir=a~b", "hydra.run.dir='a~b'"),
    ],
)
def test_a_run_goes_to_the_home_that_its_folder_names(
    typed: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went into a folder called ~ below the current one."""
    monkeypatch.setenv("HOME", "/home/me")
    assert read_overrides([typed]) == [read]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("context_length=16k", "context_length=16384"),
        ("context_length=4K,1M", "context_length=4096,1048576"),
        ("sweep.tokens=10M", "sweep.tokens=10000000"),
        ("sweep.tokens=1.5B", "sweep.tokens=1500000000"),
        ("sweep.supervised_tokens=0.5M", "sweep.supervised_tokens=500000"),
        ("sweep.heldout_length=128K", "sweep.heldout_length=131072"),
        ("evaluation.stride=0.5k", "evaluation.stride=512"),
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


@pytest.mark.parametrize(
    ("words", "here"),
    [
        (["--learning_rate", "1e-4"], "write trainer.learning_rate=1e-4"),
        (["--per_device_train_batch_size=2"], "trainer.per_device_train_batch_size=2"),
        (["--model", "./mine"], "model.name_or_path=./mine"),
        (["--data", "chat.jsonl", "adapter=lora"], "data.train=chat.jsonl"),
        (["--adapter", "lora"], "adapter=lora"),
        (["--multi-run"], "Did you mean --multirun?"),
    ],
)
def test_settings_with_dashes_are_answered_with_how_they_are_written(
    words: list[str], here: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        separate(words)
    assert here in str(refusal.value)
