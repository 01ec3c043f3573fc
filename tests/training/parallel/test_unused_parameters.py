"""DDP searches the graph for parameters without a gradient only where there may be some."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.parallel.unused_parameters import leaves_parameters_unused
from sft_app.training.peft.lora import add_adapter

RandomModel = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("method", [AdapterMethod.none, AdapterMethod.lora])
def test_plain_models_use_all_of_theirs(
    random_model: RandomModel, family: str, method: AdapterMethod
) -> None:
    model = random_model(family)
    install_chunked_loss(model)
    called = add_adapter(model, AdapterConfig(method=method, rank=2), seed=0)
    called.train()
    before = torch.get_rng_state()
    assert not leaves_parameters_unused(model, called)
    assert called.training and torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in called.parameters())


def test_a_parameter_that_no_forward_touches_is_found(random_model: RandomModel) -> None:
    model = random_model("llama")
    model.spare = nn.Parameter(torch.ones(2))
    assert leaves_parameters_unused(model, model)
    model.spare.requires_grad_(False)
    assert not leaves_parameters_unused(model, model)


def test_experts_in_a_list_may_be_left_out(random_model: RandomModel) -> None:
    model: Any = random_model("llama")
    model.model.layers[0].mlp.experts = nn.ModuleList([nn.Linear(2, 2)]).requires_grad_(False)
    assert leaves_parameters_unused(model, model)
