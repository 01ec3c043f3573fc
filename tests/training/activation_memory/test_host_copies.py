"""What layers are given waits on the host: bit by bit the same gradients, two inputs at a time."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sft_app.compat import model_internals
from sft_app.training.activation_memory.host_copies import Copied, HostCopies
from sft_app.training.callbacks.offload_activations import OffloadActivations
from sft_app.training.decoder_layers import decoder_layers

CPU = torch.device("cpu")
TOKENS = torch.arange(24).reshape(2, 12)


def checkpointed(model: PreTrainedModel, *, reentrant: bool) -> PreTrainedModel:
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    return model.train()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    for _ in range(2):  # two micro-batches
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class Noted(HostCopies):
    """Copies of everything, and how many tensors are on the device again at a time."""

    def __init__(self) -> None:
        super().__init__(CPU, smallest=1)  # checkpointing of torch 2.11 keeps an empty one
        self.kept: list[Copied] = []
        self.most_fetched = 0

    def _copy_out(self, tensor: torch.Tensor) -> Copied:
        self.kept.append(super()._copy_out(tensor))
        return self.kept[-1]

    def _fetch(self, kept: Copied) -> None:
        super()._fetch(kept)
        in_time = 1 + sum(copied.fetched is not None for copied in self.kept)
        self.most_fetched = max(self.most_fetched, in_time)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_the_same_bits(
    random_model: Callable[..., PreTrainedModel], reentrant: bool
) -> None:
    plain = checkpointed(random_model("llama", num_hidden_layers=5), reentrant=reentrant)
    offloaded = copy.deepcopy(plain)
    callback = OffloadActivations(offloaded, CPU)
    callback.copies = noted = Noted()
    before = [model_internals.recomputation(layer) for layer in decoder_layers(offloaded)]
    callback.on_train_begin()
    found = gradients(offloaded)
    callback.on_train_end()
    for name, gradient in gradients(plain).items():
        assert torch.equal(found[name], gradient), name
    hidden = [copied for copied in noted.kept if copied.host.shape == (2, 12, 32)]
    assert len(hidden) == 2 * 5, "the input of each layer, in each micro-batch"
    assert all(copied.taken and copied.fetched is None for copied in hidden)
    assert noted.most_fetched == 2, "the one in use, and the next"
    assert [model_internals.recomputation(layer) for layer in decoder_layers(offloaded)] == before


def test_small_tensors_and_parameters_stay(random_model: Callable[..., PreTrainedModel]) -> None:
    model = checkpointed(random_model("llama"), reentrant=False)
    copies = HostCopies(CPU)
    with copies.keeping():
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
    assert copies.latest is None
    loss.backward()


def test_what_a_forward_without_backward_kept_is_let_go() -> None:
    copies = Noted()
    weight = torch.ones(3, requires_grad=True)
    with copies.keeping():
        (weight * torch.ones(3)).sum()
    copies.kept.clear()
    with copies.keeping():
        loss = (weight * torch.full((3,), 2.0)).sum()
    (latest,) = copies.kept
    assert latest.before is not None and latest.before() is None
    loss.backward()
    assert weight.grad is not None and weight.grad.tolist() == [2.0, 2.0, 2.0]
