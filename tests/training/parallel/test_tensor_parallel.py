"""Two ranks with half of each matrix compute what one process computes."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.model.tensor_parallel import check_tensor_parallel
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan
from tests.newer_transformers import NEEDS_SHARDED_MODELS
from tests.programs import run_on_ranks


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
