"""Ranks that each have a part of every row compute what one process computes on whole rows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.training.attention import packed_attention
from sft_app.training.parallel.context_parallel import init_context_parallel_group
from sft_app.training.parallel.verify_context_parallel import verify_context_parallel
from tests.forked_ranks import on_two_forked_ranks
from tests.programs import run_on_ranks, run_program

PROGRAM = "tests.training.parallel.context_parallel_ranks"


def run_ranks(what: str, directory: Path, world_size: int, size: int) -> list[set[str]]:
    """What each rank says that it found to hold."""
    if what == "trainer":
        run_program("-m", PROGRAM, "reference", str(directory), "1")
    lines = run_on_ranks(world_size, PROGRAM, what, str(directory), str(size)).splitlines()
    said = []
    for rank in range(world_size):
        start = f"rank {rank}: "
        said.append({line.removeprefix(start) for line in lines if line.startswith(start)})
    return said


GRADIENTS = {
    f"gradients, {case}"
    for case in (
        "packed",
        "packed, the model's own loss",
        "packed, MLPs in tiles",
        "padded",
        "plain",
        "one key and value head",
        "one key and value head, plain",
        "sliding window",
        "sliding window, padded",
        "some layers with a window",
        "soft-capped scores",
        "soft-capped scores, plain",
        "latent attention",
        "position table",
        "mixture",
    )
}
OTHERS = {"weighted tokens", "mixed precision", "the check on the loaded model", "evaluation"}
TRAINED = {
    "SFTTrainer, all weights, sharded=False, {}",
    "SFTTrainer, conversations, sharded=False, {}",
    "SFTTrainer, lora, sharded=False, {'gradient_checkpointing': True}",
    "SFTTrainer, all weights, sharded=True, {'gradient_checkpointing': True}",
}


def test_two_parts_of_a_row_give_the_gradients_of_the_whole(tmp_path: Path) -> None:
    expected = GRADIENTS | OTHERS
    assert run_ranks("gradients", tmp_path, world_size=2, size=2) == [expected, expected]


@pytest.mark.slow
def test_heads_of_keys_are_repeated_just_enough_for_four_parts(tmp_path: Path) -> None:
    expected = {"gradients, six key and value heads"} | OTHERS
    assert run_ranks("gradients", tmp_path, world_size=4, size=4) == [expected] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "size"), [(2, 2), (4, 2)])
def test_steps_on_parts_of_rows_are_those_of_one_process(
    tmp_path: Path, world_size: int, size: int
) -> None:
    assert run_ranks("trainer", tmp_path, world_size, size) == [TRAINED] * world_size


def refusal_of_parts(directory: Path) -> str:
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.config.use_cache = False
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    group = init_context_parallel_group(2, torch.device("cpu"))
    assert group is not None
    with pytest.raises(ConfigError) as refusal:
        verify_context_parallel(model, group)
    return str(refusal.value)


def test_the_loaded_model_is_asked_beyond_its_chunks(
    random_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    """Chunks of 8 tokens, which parts of rows do not know of: no document of the probe has more."""
    random_model("llama4_text").save_pretrained(tmp_path)
    for told in on_two_forked_ranks(refusal_of_parts, tmp_path):
        assert "sequence shards move the logits" in told


def test_a_row_of_several_parts_needs_several_processes() -> None:
    assert init_context_parallel_group(1, torch.device("cpu")) is None
    with pytest.raises(ConfigError, match=r"there is 1: set launch\.nproc_per_node=2"):
        init_context_parallel_group(2, torch.device("cpu"))
