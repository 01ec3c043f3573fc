"""What experts are stacked from, read off transformers' own converters: exactly, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    Transpose,
    WeightConverter,
)

from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.stored_weights import StackedWeight, StoredWeights
from sft_app.loader.checkpoint.weights_plan import plan_weights
from sft_app.loader.model.read_rows import RowReader
from tests.training.random_models import build_random_model

GATE, UP = "mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"
DOWN = "mlp.experts.*.down_proj.weight"
CPU = torch.device("cpu")


class OnAll(ConversionOps):
    """Does something to what was put together."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        (tensor,) = input_dict.values()
        return {kwargs["target_patterns"][0]: self.function(tensor)}


def by_turns(joined: Tensor) -> Tensor:
    """A row of gate, then a row of up, as GPT-OSS has them."""
    gate_and_up = joined.reshape(len(joined), 2, -1, joined.shape[2])
    return gate_and_up.transpose(1, 2).reshape_as(joined)


def planned(directory: Path) -> StoredWeights | str:
    config = ModelConfig(name_or_path=str(directory))
    return plan_weights(config, load_pretrained_config(config)).stored


def write_square(directory: Path, num_experts: int = 4) -> None:
    """Experts whose matrices are square: no shape shows that one was turned."""
    build_random_model(
        "qwen3_moe", num_experts=num_experts, moe_intermediate_size=32, num_experts_per_tok=2
    ).save_pretrained(directory)


def convert_by(monkeypatch: pytest.MonkeyPatch, gate_up: list[Any], down: list[Any]) -> None:
    """Let transformers load qwen3_moe by these."""
    conversion_mapping.get_checkpoint_conversion_mapping("qwen3_moe")  # makes the table
    table = conversion_mapping._checkpoint_conversion_mapping_cache
    entries = [
        WeightConverter(gate_up[0], "mlp.experts.gate_up_proj", operations=gate_up[1]),
        WeightConverter(DOWN, "mlp.experts.down_proj", operations=down),
    ]
    monkeypatch.setitem(table, "qwen3_moe", entries)


def assert_read_as_loaded(directory: Path) -> None:
    """All rows of all weights, in two slices, are those of transformers' loader."""
    stored = planned(directory)
    assert isinstance(stored, StoredWeights) and stored.stacks
    truth = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()
    reader = RowReader()
    for name in [*stored.names, *stored.stacks]:
        whole, cut = truth[name], (len(truth[name]) + 1) // 2
        for rows in (range(cut), range(cut, len(whole))):
            read = reader.rows(stored.find(name), rows, whole.shape, torch.float32, CPU)
            assert torch.equal(read, whole[rows.start : rows.stop]), name
        assert torch.equal(reader.whole(stored.find(name), torch.float32), whole)
    reader.check()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "deepseek_v2", "jamba"])
def test_experts_are_read_as_transformers_stacks_them(family: str, tmp_path: Path) -> None:
    build_random_model(family).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_read_as_loaded(tmp_path)


def test_the_tenth_expert_comes_after_the_second(tmp_path: Path) -> None:
    write_square(tmp_path, num_experts=12)
    assert_read_as_loaded(tmp_path)


STACKED = [MergeModulelist(dim=0)]
JOINED = [MergeModulelist(dim=0), Concatenate(dim=1)]


@pytest.mark.parametrize(
    ("gate_up", "down"),
    [
        (([UP, GATE], JOINED), STACKED),
        (([GATE, UP], [*JOINED, OnAll(lambda t: t.flip(0))]), STACKED),
        (([GATE, UP], JOINED), [*STACKED, OnAll(lambda t: t[[2, 0, 3, 1]])]),
        (([GATE, UP], [*JOINED, OnAll(lambda t: torch.cat(t.chunk(2, 1)[::-1], 1))]), STACKED),
    ],
)
def test_another_order_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate_up: Any, down: Any
) -> None:
    write_square(tmp_path)
    convert_by(monkeypatch, gate_up, down)
    assert_read_as_loaded(tmp_path)


@pytest.mark.parametrize(
    ("gate_up", "down", "operations"),
    [
        (([GATE, UP], JOINED), [*STACKED, Transpose(1, 2)], "MergeModulelist, Transpose"),
        (([GATE, UP], JOINED), [*STACKED, OnAll(lambda t: t * 2)], "MergeModulelist, OnAll"),
        (([GATE, UP], JOINED), [*STACKED, OnAll(lambda t: t.flip(1))], "MergeModulelist, OnAll"),
        (([GATE, UP], JOINED), [*STACKED, OnAll(lambda t: t.flip(2))], "MergeModulelist, OnAll"),
        (([GATE, UP], JOINED), [*STACKED, OnAll(lambda t: t[[0, 0, 1, 2]])], "MergeModulelist, On"),
        (([GATE, UP], [*JOINED, OnAll(by_turns)]), STACKED, "Concatenate, OnAll"),
    ],
)
def test_what_is_more_than_stacking_is_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate_up: Any, down: Any, operations: str
) -> None:
    write_square(tmp_path)
    convert_by(monkeypatch, gate_up, down)
    stored = planned(tmp_path)
    assert isinstance(stored, str)
    assert "does not only stack them (model.layers.0.mlp.experts." in stored
    assert operations in stored


def test_files_of_other_experts_are_other_files(tmp_path: Path) -> None:
    """Ranks compare where they would read from."""
    found = []
    for part, names in (("a", [UP, GATE]), ("b", [GATE, UP])):
        with pytest.MonkeyPatch.context() as patch:
            write_square(tmp_path / part)
            convert_by(patch, [names, JOINED], STACKED)
            stored = planned(tmp_path / part)
            assert isinstance(stored, StoredWeights)
            found.append(stored.fingerprint())
    assert found[0] != found[1]


def test_parts_of_a_row_lie_one_after_the_other(tmp_path: Path) -> None:
    write_square(tmp_path, num_experts=3)
    stored = planned(tmp_path)
    assert isinstance(stored, StoredWeights)
    weight = stored.find("model.layers.1.mlp.experts.gate_up_proj")
    assert isinstance(weight, StackedWeight)
    assert weight.shape == (3, 64, 32)
    assert [(p.row, p.start, p.stop) for p in weight.of_rows(range(1, 2))] == [
        (1, 0, 32),
        (1, 32, 64),
    ]
    with pytest.raises(KeyError):
        stored.find("model.layers.9.mlp.experts.gate_up_proj")
