"""Two ranks with half of each matrix compute what one process computes."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.model.tensor_parallel import (
    check_tensor_parallel,
    disown_tensor_parallel,
    tensor_parallel_arguments,
)
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan
from sft_app.training.metrics import token_counts
from sft_app.training.parallel.verify_tensor_parallel import (
    verify_cut_weights,
    verify_tensor_parallel,
)
from sft_app.training.peft.merge_shards import gather_one
from tests.forked_ranks import on_two_forked_ranks
from tests.newer_transformers import NEEDS_SHARDED_MODELS
from tests.programs import run_on_ranks
from tests.training.training_steps import packed_rows, prepared, trainer_of

CPU = torch.device("cpu")


@pytest.mark.slow
def test_matrices_in_two_parts_give_the_gradients_of_whole_ones(tmp_path: Path) -> None:
    printed = run_on_ranks(2, "tests.training.parallel.tensor_parallel_ranks", str(tmp_path))
    for rank in (0, 1):
        for case in (
            "llama",
            "a tied head",
            "soft-capped scores and logits",
            "biases",
            "norms of heads",
            "fused projections",
            "mixture",
            "sliding window",
        ):
            assert f"rank {rank}: {case}\n" in printed


def cut(directory: Path) -> PreTrainedModel:
    """As a run loads it on each of two ranks."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        directory, **tensor_parallel_arguments(2)
    )
    model.config.use_cache = False
    disown_tensor_parallel(model)
    return model


def refusal_of_gradients(directory: Path) -> str:
    with pytest.raises(ConfigError) as refusal:
        verify_tensor_parallel(cut(directory))
    return str(refusal.value)


def refusal_of_weights(directory: Path) -> str:
    whole = AutoModelForCausalLM.from_pretrained(directory)
    with pytest.raises(ConfigError) as refusal:
        verify_cut_weights(cut(directory), whole, CPU)
    return str(refusal.value)


def what_ranks_agree_on(directory: Path) -> str:
    model = cut(directory)
    verify_cut_weights(model, AutoModelForCausalLM.from_pretrained(directory), CPU)
    check = verify_tensor_parallel(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    return check.sentence()


@NEEDS_SHARDED_MODELS
@pytest.mark.parametrize(
    ("family", "ask", "found"),
    [
        ("llama", what_ranks_agree_on, "the gradients of 5 parameters that each has whole within"),
        ("qwen3", what_ranks_agree_on, "the gradients of 9 parameters that each has whole within"),
        # An activation that is trained, behind a cut: each rank knows a part of its gradient.
        ("apertus", refusal_of_gradients, r"the gradient of model\.layers\.\d\.mlp\.act_fn\.alpha"),
        # Files hold several matrices in one, which is cut before it is taken apart.
        ("hrm_text", refusal_of_weights, "transformers reads model.L_module.* otherwise"),
    ],
)
def test_ranks_are_asked_whether_they_compute_the_same(
    small_family: Callable[[str], PreTrainedModel],
    tmp_path: Path,
    family: str,
    ask: Callable[[Path], str],
    found: str,
) -> None:
    small_family(family).save_pretrained(tmp_path)
    for told in on_two_forked_ranks(ask, tmp_path):
        assert re.search(found, told)


def weights_after(directory: Path, checkpoints: Path, steps: int, resume: bool) -> dict[str, Any]:
    """Train a mixture from the start, or on from its first step's checkpoint."""
    vars(token_counts)["measure_matmul_rate"] = lambda device, dtype: 1e9
    model = dataclasses.replace(prepared(cut(directory)), sharded=True, tensor_parallel_size=2)
    trainer = trainer_of(
        model, checkpoints, packed_rows(4), max_steps=steps, save_strategy="steps", save_steps=1,
        optim="adamw_torch", lr_scheduler_type="constant",
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(checkpoints / "checkpoint-1") if resume else None)
    state = trainer.optimizer.state_dict()["state"]
    moments = {str(n): gather_one(s["exp_avg"]).numpy() for n, s in state.items()}
    weights = {n: gather_one(p.detach()).numpy() for n, p in trainer.model.named_parameters()}
    trainer.release_training_state()
    return weights | moments


@NEEDS_SHARDED_MODELS
def test_experts_that_ranks_share_are_saved_and_gone_on_with(
    random_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    """Two matrices in one, of each of which a rank has a part: no row of the file is one rank's."""
    random_model("mixtral").save_pretrained(tmp_path)
    at_once = on_two_forked_ranks(weights_after, tmp_path, tmp_path / "whole", 2, False)
    on_two_forked_ranks(weights_after, tmp_path, tmp_path / "parts", 1, False)
    in_parts = on_two_forked_ranks(weights_after, tmp_path, tmp_path / "parts", 2, True)
    for expected, found in zip(at_once, in_parts, strict=True):
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            assert (found[name] == weight).all(), name


@NEEDS_SHARDED_MODELS
@pytest.mark.parametrize(
    ("family", "size", "reason"),
    [
        ("llama", 3, "num_attention_heads is 32"),
        ("qwen2", 64, "num_attention_heads is 32"),
        ("gemma", 2, None),
        ("mistral", 16, "num_key_value_heads is 8"),
        ("gpt2", 2, "no tensor-parallel plan for gpt2"),
    ],
)
def test_models_that_cannot_be_cut_are_known_from_their_configuration(
    tokenizer_plan: TokenizerPlan, family: str, size: int, reason: str | None
) -> None:
    config = AutoConfig.for_model(family)
    rope = plan_rope(config, 512, RopeConfig())
    if reason is None:
        check_tensor_parallel(config, rope, tokenizer_plan, size)
        return
    with pytest.raises(ConfigError, match=reason):
        check_tensor_parallel(config, rope, tokenizer_plan, size)


@pytest.fixture
def tokenizer_plan() -> TokenizerPlan:
    return TokenizerPlan(
        name_or_path="any",
        backend="any",
        vocab_size=100,
        model_vocab_size=100,
        model_max_length=512,
        own_max_length=512,
        padding_side="right",
        pad_token="<pad>",
        pad_token_id=0,
        pad_reason="its own",
        added_tokens=(),
        added_token_ids=(),
        bos_token_id=1,
        eos_token_id=2,
        stop_token_ids=(2,),
        chat_template="none",
        adds_bos=False,
    )
