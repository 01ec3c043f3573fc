"""The memory estimate against what the same model really holds."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.config.schema.adapter import AdapterConfig
from sft_app.config.schema.app import AppConfig
from sft_app.training.estimates.activations import count_activations
from sft_app.training.estimates.memory_estimate import (
    MemoryEstimate,
    MemoryEstimator,
    estimate_memory,
)
from sft_app.training.peft.lora import put_adapter

SMALL = LlamaConfig(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=4)  # fmt: skip


Compose = Callable[..., AppConfig]


def estimate(config: AppConfig, model: LlamaConfig = SMALL, **options: Any) -> MemoryEstimate:
    settings: dict[str, Any] = {
        "context_length": 64,
        "dtype": torch.float32,
        "compute_dtype": torch.float32,
        "chunk_bytes": 2**14,
    } | options
    return estimate_memory(model, config.trainer, config.adapter, **settings)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_weights_gradients_and_adam_are_counted_exactly(compose: Compose, adapter: str) -> None:
    config = compose(f"adapter={adapter}")
    model = put_adapter(LlamaForCausalLM(SMALL), config.adapter)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = sum(
        s[name].nbytes for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    )
    expected = estimate(config)
    assert expected.num_trainable_parameters == sum(p.numel() for p in trained)
    assert (expected.weights, expected.gradients, expected.optimizer) == (
        weights,
        gradients,
        moments,
    )


@pytest.mark.slow  # where bitsandbytes is installed
@pytest.mark.parametrize(
    ("optim", "family", "bits"),
    [
        ("adamw_8bit", "AdamW", 8),
        ("lion_8bit", "Lion", 8),
        ("ademamix_8bit", "AdEMAMix", 8),
        ("rmsprop_bnb", "RMSprop", 32),
        ("ademamix", "AdEMAMix", 32),
    ],
)
def test_the_state_of_bitsandbytes_is_counted_exactly(
    compose: Compose, optim: str, family: str, bits: int
) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    config = LlamaConfig(**{**SMALL.to_dict(), "hidden_size": 100, "intermediate_size": 133})
    model = LlamaForCausalLM(config)
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.register_module_override(
        model.get_input_embeddings(), "weight", {"optim_bits": 32}
    )  # as the Trainer does
    optimizer = getattr(bitsandbytes.optim, family)(model.parameters(), optim_bits=bits)
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    held = sum(
        state[name].nbytes
        for state in optimizer.state.values()
        for name in ("state1", "state2", "absmax1", "absmax2")
        if name in state
    )
    assert estimate(compose(f"trainer.optim={optim}"), config).optimizer == held


@pytest.mark.parametrize("times", [2, 8])
def test_what_grows_with_the_context_grows_in_proportion(compose: Compose, times: int) -> None:
    one = estimate(compose(), context_length=2**10)
    more = estimate(compose(), context_length=times * 2**10)
    chunk = one.logits - 2**10 * SMALL.hidden_size * 8 - 4 * SMALL.vocab_size * SMALL.hidden_size
    assert more.activations + chunk == pytest.approx(times * (one.activations + chunk), abs=8)
    assert more.weights == one.weights


def test_the_chunked_cross_entropy_holds_one_chunk_however_long_the_row(compose: Compose) -> None:
    one, more = (estimate(compose(), context_length=n) for n in (2**10, 2**11))
    hidden = 2**10 * SMALL.hidden_size * (4 + 4)  # supervised states and their gradient
    assert more.logits == one.logits + hidden
    own = estimate(compose(), context_length=2**10, chunk_bytes=2**30)
    assert own.logits > one.logits


def test_mixed_precision_keeps_the_matrices_in_16_bits_too(compose: Compose) -> None:
    plain = estimate(compose())
    mixed = estimate(compose(), compute_dtype=torch.bfloat16)
    model = LlamaForCausalLM(SMALL)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    matrices -= model.get_input_embeddings().weight.numel()  # looked up, not multiplied
    assert mixed.weights == plain.weights + 2 * matrices
    assert mixed.gradients == plain.gradients
    assert 0.5 * plain.activations < mixed.activations < plain.activations


def test_shards_share_all_but_the_activations(compose: Compose) -> None:
    whole, part = estimate(compose()), estimate(compose(), num_shards=4)
    assert part.weights == whole.weights // 4
    assert part.optimizer == whole.optimizer // 4
    assert part.activations == whole.activations
    layer = 4 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32)  # projections and norms, in float32
    around = 4 * (2 * 128 * 32 + 32)
    assert (whole.gathered, part.gathered) == (0, 2 * (2 * layer + around))


def test_checkpointing_keeps_less_and_offload_least(compose: Compose) -> None:
    deep = LlamaConfig(**{**SMALL.to_dict(), "num_hidden_layers": 8})
    on = "trainer.gradient_checkpointing=true"
    kwargs = "+trainer.gradient_checkpointing_kwargs"
    kept = [
        estimate(compose(*overrides), deep).activations
        for overrides in (
            [],
            [on, f"{kwargs}.every_n_layers=2"],
            [on],
            [on, f"{kwargs}.offload=true"],
        )
    ]
    assert kept[0] > kept[1] > kept[2] > kept[3]


def test_what_autograd_keeps_is_counted_in_every_precision_and_shape() -> None:
    """Bytes for each token and layer of a Llama, by hand: h hidden, i intermediate, k of keys."""
    config = LlamaConfig(vocab_size=128, hidden_size=32, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    h, i, k = 32, 96, 16
    kept = count_activations(config, AdapterConfig(), torch.bfloat16, torch.bfloat16)
    assert kept is not None
    norms = 2 * (2 * h + 4 * h + 4)  # input, float32 copy and its root of both norms
    least = 2 * (h + 2 * (h + k) + h + h + 4 * i)  # normed, q, k, v, attended, gate and up
    assert least < kept.layers[1] < least + norms + 2 * (4 * h + 2 * i)
    assert kept.layer_input == 2 * h
    mixed = count_activations(config, AdapterConfig(), torch.float32, torch.bfloat16)
    assert mixed is not None and mixed.layer_input == 4 * h, "the residual stream is float32"
    assert mixed.layers[1] > kept.layers[1]
    wider = LlamaConfig(**{**config.to_dict(), "num_key_value_heads": 4})
    grouped = count_activations(wider, AdapterConfig(), torch.bfloat16, torch.bfloat16)
    assert grouped is not None and grouped.layers[1] > kept.layers[1]


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_are_counted_in_every_precision(
    random_model: Any, family: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows of each token's experts, and what gate, up and down make of them; no error is shown."""
    config = random_model(family).config
    h, k = config.hidden_size, config.num_experts_per_tok
    i = getattr(config, "moe_intermediate_size", config.intermediate_size)
    experts = k * (h + 2 * i + i)  # the input of the first product, its output, and of the second
    counted = {}
    for parameters, compute in (
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
    ):
        kept = count_activations(config, AdapterConfig(), parameters, compute)
        assert kept is not None
        counted[parameters, compute] = kept.layers[-1]
        assert kept.layers[-1] > compute.itemsize * experts
    whole, mixed, half = counted.values()
    assert half < mixed < whole
    assert "Traceback" not in capfd.readouterr().err


def test_tiles_are_used_where_they_save_memory_at_no_cost(compose: Compose) -> None:
    """With checkpointing and long rows; asked for, they are whatever it costs."""
    on = "trainer.gradient_checkpointing=true"

    def planned(*overrides: str, length: int = 2**14) -> tuple[int | None, str, int]:
        config = compose(*overrides)
        estimator = MemoryEstimator(
            SMALL, config.trainer, config.adapter, dtype=torch.float32,
            compute_dtype=torch.float32, chunk_bytes=2**14, tile_tokens=512,
        )  # fmt: skip
        plan = estimator.tiling(length)
        return plan.tile_tokens, plan.reason, estimator.at(length).activations

    tiles, reason, activations = planned(on)
    assert tiles == 512 and re.search(r"about [0-9.]+ GiB in place of [0-9.]+ GiB", reason)
    assert activations < 0.6 * planned(on, "trainer.tiled_mlp=false")[2]
    for overrides, length, words in (
        ((), 2**14, "computed once more"),
        ((on,), 512, "no longer than a tile"),
        ((on, "trainer.torch_compile=true"), 2**14, "torch_compile"),
        ((on, "trainer.tiled_mlp=false"), 2**14, "tiled_mlp=false"),
    ):
        tiles, reason, _ = planned(*overrides, length=length)
        assert tiles is None and words in reason
    assert planned("trainer.tiled_mlp=true")[0] == 512


def test_ddp_copies_gradients_into_buckets(compose: Compose) -> None:
    assert estimate(compose()).buckets == 0
    replicated = estimate(compose(), num_replicas=2)
    assert replicated.buckets == replicated.gradients
