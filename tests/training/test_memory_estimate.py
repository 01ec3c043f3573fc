"""The memory estimate against what the same model really holds."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.config.app import AppConfig
from sft_app.training.memory_estimate import estimate_memory

SMALL = LlamaConfig(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=4)  # fmt: skip


def test_weights_gradients_and_adam_are_counted_exactly(compose: Callable[..., AppConfig]) -> None:
    trainer = compose().trainer
    estimate = estimate_memory(SMALL, trainer, context_length=64, dtype=torch.float32)
    model = LlamaForCausalLM(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    moments = sum(
        s[name].nbytes for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    )
    assert estimate.num_parameters == model.num_parameters()
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (weights, weights, moments)


@pytest.mark.parametrize("times", [2, 8])
def test_what_grows_with_the_context_grows_in_proportion(
    compose: Callable[..., AppConfig], times: int
) -> None:
    trainer = compose().trainer
    one = estimate_memory(SMALL, trainer, context_length=64, dtype=torch.bfloat16)
    more = estimate_memory(SMALL, trainer, context_length=64 * times, dtype=torch.bfloat16)
    assert more.activations == times * one.activations
    assert more.weights == one.weights


def test_checkpointing_keeps_less(compose: Callable[..., AppConfig]) -> None:
    plain, checkpointed = (
        estimate_memory(
            SMALL,
            compose(f"trainer.gradient_checkpointing={on}").trainer,
            context_length=64,
            dtype=torch.bfloat16,
        )
        for on in ("false", "true")
    )
    assert checkpointed.activations < plain.activations
