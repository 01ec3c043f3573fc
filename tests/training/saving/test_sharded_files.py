"""A sharded model's files, written by all ranks: those that one process would have written."""

import json
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.records.disk_space import DiskFull
from sft_app.records.manifest import MANIFEST, damage_of
from sft_app.training.model_plan import plan_model
from sft_app.training.packing_plan import PackingPlan
from sft_app.training.parallel.fsdp import gather_weights
from sft_app.training.prepare_model import PreparedModel, prepare_model
from sft_app.training.run_training import load
from sft_app.training.saving import save_final_model as saving
from sft_app.training.saving import sharded_files
from sft_app.training.saving.tensor_file import TensorFile, in_file_order
from tests.forked_ranks import on_forked_ranks, on_two_forked_ranks
from tests.newer_transformers import NEEDS_SHARDED_MODELS

CPU = torch.device("cpu")
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LORA = ("adapter=lora", "adapter.rank=4")
Compose = Callable[..., AppConfig]
RandomModel = Callable[..., PreTrainedModel]


def test_a_file_written_tensor_by_tensor_is_the_library_s(tmp_path: Path) -> None:
    tensors = {
        "b.weight": torch.randn(3, 5),
        "a.weight": torch.randn(7).bfloat16(),
        "größe": torch.arange(4),
        "a.scalar": torch.tensor(2.5, dtype=torch.float16),
        "mask": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 4),
        "b.columns": torch.randn(4, 6).T,
    }
    layout = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    with TensorFile(tmp_path / "ours", layout) as file:
        for name in in_file_order(layout):
            file.add(name, tensors[name])
    save_file(
        {name: t.contiguous() for name, t in tensors.items()},
        tmp_path / "theirs",
        metadata={"format": "pt"},
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def ready(config: AppConfig) -> tuple[PreparedModel, Any]:
    """A model as it is at the end of training."""
    plans = plan_model(config, CPU)
    model = load(config, plans, CPU)
    prepared = prepare_model(
        model,
        config,
        CPU,
        packing=PackingPlan(True, "test"),
        attention=plans.attention,
        new_token_ids=plans.tokenizer_plan.new_row_ids,
    )
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            parameter.mul_(1.1).add_(0.01)  # as no file has it; of an adapter, nothing is zero
    return prepared, plans


def on_one_node(largest: int | None = None) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"]
    if largest is not None:
        vars(sharded_files)["SMALLEST_FILE"] = vars(sharded_files)["LARGEST_FILE"] = largest


def both_ways(config: AppConfig, directory: Path, largest: int | None) -> dict[str, Any]:
    on_one_node(largest)
    answers: dict[str, Any] = {"files": []}

    def planned(*arguments: Any, **named: Any) -> sharded_files.FilesPlan | None:
        plan = sharded_files.plan_files(*arguments, **named)
        assert plan is not None
        answers["files"] = [(file.name, file.writer) for file in plan.files]
        return plan

    for way in ("by all", "by one"):
        prepared, plans = ready(config)
        if way == "by one":
            vars(saving)["plan_files"] = lambda *arguments, **named: None
        else:
            vars(saving)["plan_files"] = planned
        saving.save_final_model(prepared, config, plans, directory / way / "model", CPU)
    return answers


def checkpoint(
    directory: Path, tiny_model: Path, model: PreTrainedModel, dtype: torch.dtype
) -> None:
    for path in tiny_model.glob("*token*"):
        (directory / path.name).write_bytes(path.read_bytes())
    norms = {n: t.clone() for n, t in model.state_dict().items() if "norm" in n}
    model.to(dtype).save_pretrained(directory)
    if dtype is not torch.float32:  # with tensors that have a dtype of their own
        weights = load_file(directory / "model.safetensors")
        save_file(weights | norms, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "changes", "dtype", "largest", "settings"),
    [
        ("llama", {}, torch.bfloat16, None, ()),
        ("llama", {"tie_word_embeddings": True}, torch.float32, 20_000, ()),
        ("gemma2", {}, torch.bfloat16, 9_000, ()),
        ("gpt2", {}, torch.float32, 20_000, ()),
        ("llama", {}, torch.bfloat16, None, LORA),
        # A row more than others: Qwen2's tokenizer has an end of text of its own.
        ("qwen2", {"tie_word_embeddings": True, "vocab_size": 260}, torch.bfloat16, 9_000, LORA),
        # The files have a tensor for each matrix of each expert, the model one for all of a layer.
        ("mixtral", {}, torch.bfloat16, None, ()),
        ("qwen3_moe", EXPERTS, torch.float32, 20_000, ()),
        ("deepseek_v3", {}, torch.bfloat16, 9_000, ()),
        ("olmoe", EXPERTS, torch.bfloat16, 9_000, LORA),
        # The files have one tensor of what are several in the model.
        ("hrm_text", {}, torch.float32, 20_000, ()),
    ],
)
@NEEDS_SHARDED_MODELS
def test_the_folder_that_all_ranks_write_is_that_of_rank_0(
    compose: Compose,
    random_model: RandomModel,
    tiny_model: Path,
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
    dtype: torch.dtype,
    largest: int | None,
    settings: tuple[str, ...],
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    model = random_model(family, **({"vocab_size": 259} | changes))
    checkpoint(source, tiny_model, model, dtype)
    config = compose(
        f"model.name_or_path={source}", "context_length=64", "trainer.parallelism=fsdp", *settings
    )
    answer, _ = on_two_forked_ranks(both_ways, config, tmp_path, largest)
    tied = AutoConfig.from_pretrained(source).tie_word_embeddings
    ours, theirs = tmp_path / "by all" / "model", tmp_path / "by one" / "model"
    assert damage_of(ours) is None
    if largest is None:
        assert answer["files"] == [("model.safetensors", 0)]
        assert (ours / MANIFEST).read_text() == (theirs / MANIFEST).read_text(), "every byte"
    else:
        names, writers = zip(*answer["files"], strict=True)
        assert len(names) > 3 and writers == tuple(n % 2 for n in range(len(names)))
        assert sorted(names) == sorted(p.name for p in ours.glob("*.safetensors"))
        index = json.loads((ours / "model.safetensors.index.json").read_text())
        weights: dict[str, torch.Tensor] = {}
        for name in names:
            inside = load_file(ours / name)
            assert {n for n, file in index["weight_map"].items() if file == name} == set(inside)
            weights |= inside
        whole = load_file(theirs / "model.safetensors")
        if tied:  # gathered one by one, it is there twice
            del whole["lm_head.weight"]
        assert weights.keys() == whole.keys()
        for name, tensor in whole.items():
            assert weights[name].dtype == tensor.dtype
            assert torch.equal(weights[name], tensor), name
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    assert AutoConfig.from_pretrained(ours).tie_word_embeddings is tied
    loaded = AutoModelForCausalLM.from_pretrained(ours).state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(theirs).state_dict().items():
        assert torch.equal(loaded[name], tensor)
    assert not list(ours.parent.glob(".*")), "nothing is left beside it"
    if settings:
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            beside = [folder.with_name("adapter") / name for folder in (ours, theirs)]
            assert beside[0].read_bytes() == beside[1].read_bytes()


def fails_on_rank_1(config: AppConfig, directory: Path, error: type[OSError]) -> str:
    on_one_node(20_000)
    prepared, plans = ready(config)
    add = TensorFile.add

    def full(file: TensorFile, name: str, tensor: torch.Tensor) -> None:
        if torch.distributed.get_rank() == 1:
            raise error(28, "no space left on device")
        add(file, name, tensor)

    vars(sharded_files)["TensorFile"].add = full
    with pytest.raises(DiskFull) as told:
        saving.save_final_model(prepared, config, plans, directory / "model", CPU)
    return str(told.value)


@NEEDS_SHARDED_MODELS
def test_a_full_disk_on_one_rank_ends_all_ranks_and_leaves_what_was_there(
    compose: Compose, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "before").touch()
    config = compose(
        f"model.name_or_path={tiny_model}", "context_length=64", "trainer.parallelism=fsdp"
    )
    for told in on_two_forked_ranks(fails_on_rank_1, config, tmp_path, OSError):
        assert "the final model needs" in told
    assert [p.name for p in tmp_path.rglob("*")] == ["model", "before"]


def fails_before_weights(config: AppConfig, directory: Path) -> str:
    on_one_node()
    prepared, plans = ready(config)

    def broken(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("no configuration can be written")

    vars(saving)["save_for_serving"] = broken
    with pytest.raises(RuntimeError) as told:
        saving.save_final_model(prepared, config, plans, directory / "model", CPU)
    return str(told.value)


@NEEDS_SHARDED_MODELS
def test_what_fails_on_rank_0_alone_keeps_no_other_rank_waiting(
    compose: Compose, tiny_model: Path, tmp_path: Path
) -> None:
    config = compose(
        f"model.name_or_path={tiny_model}", "context_length=64", "trainer.parallelism=fsdp"
    )
    told = on_two_forked_ranks(fails_before_weights, config, tmp_path)
    assert told == ["no configuration can be written"] * 2
    assert not list(tmp_path.iterdir())


def saves_too_large_a_number_in_shards(config: AppConfig, directory: Path) -> str:
    on_one_node(20_000)
    return saves_too_large_a_number(config, directory)


def saves_too_large_a_number(config: AppConfig, directory: Path) -> str:
    prepared, plans = ready(config)
    grown = dict(prepared.model.named_parameters())["model.norm.weight"]
    with torch.no_grad():
        grown.fill_(70_000)
    with pytest.raises(ConfigError) as told:
        saving.save_final_model(prepared, config, plans, directory / "model", CPU)
    return str(told.value)


@pytest.mark.parametrize("parallelism", ["ddp", pytest.param("fsdp", marks=NEEDS_SHARDED_MODELS)])
def test_what_float16_cannot_hold_is_not_saved_as_infinity(
    compose: Compose,
    random_model: RandomModel,
    tiny_model: Path,
    tmp_path: Path,
    parallelism: str,
) -> None:
    """Trained in float32; the checkpoint was published in float16, which ends at 65,504."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    checkpoint(source, tiny_model, random_model("llama", vocab_size=259), torch.float16)
    weights = load_file(source / "model.safetensors")
    halves = {name: tensor.half() for name, tensor in weights.items()}
    save_file(halves, source / "model.safetensors", metadata={"format": "pt"})
    config = compose(
        f"model.name_or_path={source}", "context_length=64", f"trainer.parallelism={parallelism}"
    )
    if parallelism == "fsdp":
        told, _ = on_two_forked_ranks(saves_too_large_a_number_in_shards, config, target)
    else:
        told = saves_too_large_a_number(config, target)
    assert "'model.norm.weight' has come to 70,000" in told
    assert "float16, ends at 65,504: it is not saved; model.dtype=bfloat16 or float32" in told
    assert not list(target.iterdir())


def planned_writers(config: AppConfig, local: int) -> list[int]:
    os.environ["LOCAL_WORLD_SIZE"] = str(local)
    vars(sharded_files)["SMALLEST_FILE"] = 9_000
    prepared, _ = ready(config)
    plan = sharded_files.plan_files(prepared.model, torch.float32, {})
    assert plan is not None
    return sorted({file.writer for file in plan.files})


@NEEDS_SHARDED_MODELS
def test_ranks_of_other_nodes_write_nothing(compose: Compose, tiny_model: Path) -> None:
    """Their run folder may be another disk's."""
    config = compose(
        f"model.name_or_path={tiny_model}", "context_length=64", "trainer.parallelism=fsdp"
    )
    assert on_forked_ranks(4, planned_writers, config, 2) == [[0, 1]] * 4


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mixtral", {}),
        ("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 16}),
        ("deepseek_v3", {}),
        ("olmo_hybrid", {"layer_types": ["linear_attention", "full_attention"]}),
        ("hrm_text", {}),
        ("llama", {"tie_word_embeddings": True}),
    ],
)
def test_groups_of_tensors_make_what_the_whole_model_makes(
    random_model: RandomModel, tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    """Each taken by itself, they are the file that transformers writes of all at once."""
    model = random_model(family, **changes)
    plan = sharded_files.plan_files(model, torch.float32, {})
    assert plan is not None
    (tmp_path / "ours").mkdir()
    sharded_files.write_files(plan, model, sharded_files.gather_from(model), tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (tmp_path / way / "model.safetensors" for way in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_cannot_be_told_without_numbers_is_gathered_whole(
    random_model: RandomModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_numbers(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no numbers")

    monkeypatch.setattr("transformers.core_model_loading.Chunk.convert", needs_numbers)
    assert sharded_files.plan_files(random_model("mixtral"), torch.float32, {}) is None


class InTurn:
    """Does at once what a thread would: the profiler sees what this thread frees, and no more."""

    def __init__(self, **_: Any) -> None: ...

    def __enter__(self) -> "InTurn":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(call(*arguments))
        return done


def held_while_saving(config: AppConfig, directory: Path, way: str) -> dict[str, int]:
    on_one_node(1 << 20)
    prepared, _ = ready(config)
    model: Any = prepared.model
    model.reshard()
    vars(sharded_files)["ThreadPoolExecutor"] = InTurn
    plan = sharded_files.plan_files(model, torch.float32, {})
    assert plan is not None
    directory.mkdir(exist_ok=True)

    def save() -> None:
        if way == "gathered":
            kept = gather_weights(model)
            del kept
        else:
            sharded_files.write_files(plan, model, sharded_files.gather_from(model), directory)

    return {
        "whole": sum(p.numel() * p.element_size() for p in model.parameters()),
        # gloo's thread may be the one that frees a tensor, unseen: what is seen is never less.
        "peak": min(peak_of_tensors(save) for _ in range(6)),
    }


def peak_of_tensors(call: Callable[[], None]) -> int:
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiled:
        call()
    held = most = 0
    results: Any = profiled.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("mixtral", {"intermediate_size": 128})],
)
@NEEDS_SHARDED_MODELS
def test_no_rank_holds_more_than_a_few_tensors_beside_its_shards(
    compose: Compose,
    random_model: RandomModel,
    tiny_model: Path,
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
) -> None:
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 24 if changes else 12,
    }
    model = random_model(family, vocab_size=259, **(sizes | changes))
    checkpoint(tmp_path, tiny_model, model, torch.float32)
    config = compose(
        f"model.name_or_path={tmp_path}", "context_length=64", "trainer.parallelism=fsdp"
    )
    streamed = on_two_forked_ranks(held_while_saving, config, tmp_path / "out", "streamed")
    for rank in streamed:
        assert rank["peak"] < rank["whole"] / 4, "a few times the largest of them"
    gathered, _ = on_two_forked_ranks(held_while_saving, config, tmp_path / "out", "gathered")
    assert gathered["peak"] >= gathered["whole"], "what rank 0 held before"
