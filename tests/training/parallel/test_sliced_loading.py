"""FSDP, each rank reading its own rows: bit for bit what rank 0 would have read and scattered."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import plan_weights
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.training.model_plan import plan_model
from sft_app.training.parallel.fsdp import gather_weights, shard
from sft_app.training.parallel.loading_plan import plan_loading
from sft_app.training.peft.lora import add_adapter
from sft_app.training.run_training import load
from tests.forked_ranks import on_forked_ranks, on_two_forked_ranks
from tests.newer_transformers import NEEDS_SHARDED_MODELS

pytestmark = NEEDS_SHARDED_MODELS

CPU = torch.device("cpu")
VOCABULARY = 259
"""Of the tokenizer of the tests; at two ranks, shards of 130 and 129 rows."""
NEW_TOKEN = 'tokenizer.add_tokens=["<new>"]'
Compose = Callable[..., AppConfig]
RandomModel = Callable[..., PreTrainedModel]


@dataclass(frozen=True)
class Case:
    family: str = "llama"
    changes: tuple[tuple[str, Any], ...] = ()
    """Of its config.json."""
    settings: tuple[str, ...] = ()
    stored_in: torch.dtype = torch.bfloat16
    in_float32: str = ""
    """Part of names."""
    without_prefix: str = ""
    file_size: str = "50GB"


CASES = {
    "llama": Case(),
    "tied, in several files": Case(
        changes=(("tie_word_embeddings", True),), file_size="20KB", stored_in=torch.float32
    ),
    "longer context": Case(settings=("rope=yarn", "context_length=512")),
    "qwen2": Case("qwen2"),
    "gemma2": Case("gemma2", settings=("model.dtype=bfloat16",)),
    "gemma3": Case("gemma3_text"),
    "no outer prefix": Case("gpt2", without_prefix="transformer."),
    "added tokens": Case(settings=(NEW_TOKEN,)),
    "added tokens in rows that are there": Case(
        changes=(("vocab_size", 320),), settings=(NEW_TOKEN,)
    ),
    "added tokens, tied": Case(changes=(("tie_word_embeddings", True),), settings=(NEW_TOKEN,)),
    "adapter": Case(settings=("adapter=lora", "adapter.rank=4")),
    "adapter, float32 norms kept": Case(
        settings=("adapter=lora", "model.dtype=bfloat16", "trainer.bf16=true"), in_float32="norm"
    ),
    "adapter and added tokens": Case(settings=("adapter=lora", NEW_TOKEN)),
    "experts": Case("qwen3_moe", changes=(("num_experts", 4),)),
    "experts, uneven": Case("mixtral", changes=(("num_local_experts", 3),)),
    "one expert": Case("qwen3_moe", changes=(("num_experts", 1), ("num_experts_per_tok", 1))),
    "experts, router in float32": Case(
        "deepseek_v3",
        changes=(("n_routed_experts", 5),),
        settings=("model.dtype=bfloat16",),
        in_float32="e_score_correction_bias",
    ),
    "experts, in several files": Case(
        "glm4_moe",
        changes=(("n_routed_experts", 4), ("tie_word_embeddings", True)),
        settings=("model.dtype=bfloat16", "rope=yarn", "context_length=512"),
        file_size="20KB",
    ),
    "experts, adapter and added tokens": Case("olmoe", settings=("adapter=lora", NEW_TOKEN)),
}


def checkpoint(case: Case, random_model: RandomModel, tiny_model: Path, directory: Path) -> None:
    """A model of the case, with the tokenizer of the tests and a generation configuration."""
    shutil.copytree(tiny_model, directory, dirs_exist_ok=True)
    (directory / "model.safetensors").unlink()
    model = random_model(case.family, **{"vocab_size": VOCABULARY, **dict(case.changes)})
    model = model.to(case.stored_in)
    assert model.generation_config is not None
    model.generation_config.update(do_sample=True, temperature=0.7)
    model.save_pretrained(directory, max_shard_size=case.file_size)
    if not (case.in_float32 or case.without_prefix):
        return
    weights = load_file(directory / "model.safetensors")
    save_file(
        {
            name.removeprefix(case.without_prefix): t.float()
            if case.in_float32 and case.in_float32 in name
            else t
            for name, t in weights.items()
        },
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )


def loaded(config: AppConfig) -> dict[str, dict[str, Any]]:
    """What a rank holds, by the way of reading."""
    plans = plan_model(config, CPU)
    assert not isinstance(plans.weights.stored, str), plans.weights.stored
    whole = replace(plans, weights=replace(plans.weights, stored="a test asks for it"))
    answers = {}
    for way, planned in (("slices", plans), ("whole", whole)):
        model = load(config, planned, CPU)
        unread = sum(p.device.type == "cpu" and p.stride()[:1] == (0,) for p in model.parameters())
        trained = add_adapter(
            model, config.adapter, seed=1, new_token_ids=plans.tokenizer_plan.new_row_ids
        )
        shard(trained, model, CPU)
        answers[way] = content(model, trained) | {"unread": unread}
    return answers


def content(model: PreTrainedModel, trained: nn.Module) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(trained.named_parameters())
    assert all(isinstance(p, DTensor) for p in parameters.values())
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert model.generation_config is not None
    return {
        "weights": {n: digest(p.to_local()) for n, p in parameters.items()},
        "trained": {n for n, p in parameters.items() if p.requires_grad},
        "buffers": {n: digest(b) for n, b in trained.named_buffers()},
        "tied": head is not None and head.weight is embedding.weight,
        "generation": model.generation_config.to_dict(),
        "config": model.config.to_dict() | {"name": model.config.name_or_path},
        "training": model.training,
    }


def digest(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], str]:
    octets = tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
    return str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(octets).hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_rows_that_each_rank_reads_are_those_that_rank_0_would_have_sent(
    compose: Compose, random_model: RandomModel, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    checkpoint(case, random_model, tiny_model, tmp_path)
    config = compose(
        f"model.name_or_path={tmp_path}", "context_length=64", "trainer.parallelism=fsdp",
        *case.settings,
    )  # fmt: skip
    answers = on_two_forked_ranks(loaded, config)
    for rank, answer in enumerate(answers):
        slices, whole = answer["slices"], answer["whole"]
        # On rank 0 weights without memory stand for those of the files; elsewhere all are meta.
        assert (slices.pop("unread") > 0) is (rank == 0) and whole.pop("unread") == 0
        assert slices["weights"] == whole["weights"]
        assert slices == whole
    assert answers[0]["slices"]["generation"]["temperature"] == 0.7
    assert answers[0]["slices"]["config"]["name"] == str(tmp_path)


def refused(config: AppConfig, spoil: Callable[[Path], None]) -> str:
    plans = plan_model(config, CPU)
    spoil(Path(config.model.name_or_path))  # by both ranks, in the same way
    with pytest.raises(ConfigError) as told:
        model = load(config, plans, CPU)
        shard(model, model, CPU)
    return str(told.value)


def no_numbers(name: str, directory: Path) -> None:
    """In two of the last rows; of all of them, those are rank 1's."""
    path = file_of(directory, name)
    weights = load_file(path)
    weights[name][-2:, 3] = float("nan")
    aside = path.with_suffix(f".{torch.distributed.get_rank()}")
    save_file(weights, aside, metadata={"format": "pt"})
    torch.distributed.barrier()
    aside.replace(path)
    torch.distributed.barrier()


def cut_short(name: str, directory: Path) -> None:
    """The last bytes of the file are gone, after both ranks have planned."""
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        path = file_of(directory, name)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 100)
    torch.distributed.barrier()


def file_of(directory: Path, name: str) -> Path:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return directory / "model.safetensors"
    return directory / str(json.loads(index.read_text())["weight_map"][name])


HEAD = "lm_head.weight"
LAST_EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
EXPERTS = Case("qwen3_moe", changes=(("num_experts", 4), ("moe_intermediate_size", 16)))
"""Rank 1 reads the last one."""


@pytest.mark.parametrize(
    ("case", "spoil", "sentence"),
    [
        (Case(), partial(no_numbers, HEAD), f"'{HEAD}' in .* has 2 numbers that are NaN"),
        (Case(), partial(cut_short, HEAD), "cannot be read from .*the file ends before it"),
        (
            EXPERTS,
            partial(no_numbers, LAST_EXPERT),
            f"'{LAST_EXPERT}' in .* has 2 numbers that are NaN",
        ),
        (
            replace(EXPERTS, file_size="1KB"),  # a file for each tensor
            partial(cut_short, LAST_EXPERT),
            f"'{LAST_EXPERT}' cannot be read from .*the file ends before it",
        ),
    ],
)
def test_what_one_rank_finds_wrong_all_ranks_tell(
    compose: Compose,
    random_model: RandomModel,
    tiny_model: Path,
    tmp_path: Path,
    case: Case,
    spoil: Callable[[Path], None],
    sentence: str,
) -> None:
    checkpoint(case, random_model, tiny_model, tmp_path)
    config = compose(
        f"model.name_or_path={tmp_path}", "context_length=64", "trainer.parallelism=fsdp"
    )
    told = on_two_forked_ranks(refused, config, spoil)
    assert told[0] == told[1]
    assert re.search(sentence, told[0])


def gathered(config: AppConfig) -> tuple[str, dict[str, Any]]:
    """How they were read, and on rank 0 the weights of all ranks."""
    plans = plan_model(config, CPU)
    model = load(config, plans, CPU)
    shard(model, model, CPU)
    found = {name: digest(weight) for name, weight in gather_weights(model).items()}
    return str(plan_loading(plans.weights, plans.rope)), found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "experts", "num_ranks"),
    [
        ("mixtral", "num_local_experts", 2),
        ("qwen3_moe", "num_experts", 4),
        ("olmoe", "num_experts", 2),
        ("deepseek_v3", "n_routed_experts", 2),
        ("glm4_moe", "n_routed_experts", 4),
    ],
)
def test_five_experts_of_any_number_of_ranks_are_those_of_transformers(
    compose: Compose,
    random_model: RandomModel,
    tiny_model: Path,
    tmp_path: Path,
    family: str,
    experts: str,
    num_ranks: int,
    dtype: str,
) -> None:
    """On two ranks three and two; on four two, two, one and none."""
    checkpoint(Case(family, ((experts, 5),), file_size="30KB"), random_model, tiny_model, tmp_path)
    config = compose(
        f"model.name_or_path={tmp_path}", f"model.dtype={dtype}", "context_length=64",
        "trainer.parallelism=fsdp",
    )  # fmt: skip
    answers = on_forked_ranks(num_ranks, gathered, config)
    assert "each rank reads its own rows" in answers[0][0] and "stacked to" in answers[0][0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert answers[0][1] == {name: digest(w) for name, w in model.state_dict().items()}


def saved_by_rank_0(config: AppConfig) -> None:
    plans = plan_model(config, CPU)
    model = load(config, plans, CPU)
    shard(model, model, CPU)
    weights = gather_weights(model)
    if weights:
        model.save_pretrained(Path(config.model.name_or_path) / "again", state_dict=weights)


def test_experts_that_were_read_in_slices_are_saved_as_they_came(
    compose: Compose, random_model: RandomModel, tiny_model: Path, tmp_path: Path
) -> None:
    checkpoint(replace(EXPERTS, stored_in=torch.float32), random_model, tiny_model, tmp_path)
    config = compose(
        f"model.name_or_path={tmp_path}", "context_length=64", "trainer.parallelism=fsdp"
    )
    on_two_forked_ranks(saved_by_rank_0, config)
    came, saved = (load_file(d / "model.safetensors") for d in (tmp_path, tmp_path / "again"))
    assert LAST_EXPERT in came and came.keys() == saved.keys()
    assert all(torch.equal(came[name], saved[name]) for name in came)


@pytest.mark.parametrize(
    ("family", "pickled", "settings", "reason"),
    [
        ("llama", True, ("model.allow_pickle=true",), "its weights are pickled"),
        ("gpt2", False, ("rope=extend_positions", "context_length=512"), "table of positions"),
    ],
)
def test_weights_that_change_on_loading_are_read_whole_and_the_log_says_why(
    compose: Compose,
    random_model: RandomModel,
    tmp_path: Path,
    family: str,
    pickled: bool,
    settings: tuple[str, ...],
    reason: str,
) -> None:
    random_model(family).save_pretrained(tmp_path)
    if pickled:
        weights = load_file(tmp_path / "model.safetensors")
        torch.save(weights, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    config = compose(f"model.name_or_path={tmp_path}", "context_length=64", *settings)
    pretrained = load_pretrained_config(config.model)
    loading = plan_loading(
        plan_weights(config.model, pretrained),
        plan_rope(pretrained, config.context_length, config.rope),
    )
    assert loading.stored is None
    assert "rank 0 reads the weights" in str(loading) and reason in str(loading)


def test_the_plan_does_not_list_where_each_tensor_is(
    compose: Compose, random_model: RandomModel, tmp_path: Path
) -> None:
    random_model("llama").save_pretrained(tmp_path)
    config = compose(f"model.name_or_path={tmp_path}", "context_length=64").model
    plan = plan_weights(config, load_pretrained_config(config))
    assert str(tmp_path) not in json.dumps(plan.as_dict())
