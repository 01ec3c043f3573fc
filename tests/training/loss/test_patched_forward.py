"""The chunked cross-entropy is the model's own loss, without its logits."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import CpmAntConfig, CpmAntForCausalLM

from sft_app.config.schema.trainer import LossHead
from sft_app.loader.model.logit_transform import LogitTransform
from sft_app.training.loss import loss_of_logits
from sft_app.training.loss import patched_forward as loss_module
from sft_app.training.loss.choose_loss import LossPlan
from sft_app.training.loss.chunked_cross_entropy import chunked_cross_entropy
from sft_app.training.loss.loss_of_logits import next_token_loss
from sft_app.training.loss.patched_forward import install_chunked_loss

# Gemma2 soft-caps its logits, Cohere and Granite scale them, GPT-2 ties its head, Phi's has a bias.
FAMILIES = {
    "llama": {},
    "gpt2": {},
    "phi": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
}


def batch_with_ignored_labels() -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, 97, (3, 20), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[:, :6] = -100
    labels[1] = -100  # a row without a label
    return {"input_ids": tokens, "labels": labels}


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_items", [None, 100])
def test_loss_and_gradients_equal_the_models_own(random_model, family, num_items):
    results = []
    for chunked in (False, True):
        model = random_model(family, **FAMILIES[family])
        if chunked:
            assert install_chunked_loss(model).head is LossHead.chunked
        output = model(**batch_with_ignored_labels(), num_items_in_batch=num_items)
        output.loss.backward()
        results.append((output, gradients_of(model)))

    (own, own_gradients), (ours, our_gradients) = results
    assert ours.logits is None
    torch.testing.assert_close(ours.loss, own.loss, atol=1e-5, rtol=1e-5)
    assert own_gradients.keys() == our_gradients.keys()
    for name, gradient in own_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk_rows", [1, 7, 64])
@pytest.mark.parametrize(
    "transform",
    [LogitTransform(), LogitTransform(scale=0.5), LogitTransform(scale=2.0, softcap=3.0)],
)
def test_the_head_equals_plain_cross_entropy_for_any_chunk(chunk_rows, transform):
    torch.manual_seed(0)
    hidden = torch.randn(20, 8, requires_grad=True)
    weight, bias = torch.randn(31, 8, requires_grad=True), torch.randn(31, requires_grad=True)
    targets, token_weights = torch.randint(31, (20,)), torch.rand(20)

    logits = transform.scale * F.linear(hidden, weight, bias)
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    plain = (F.cross_entropy(logits, targets, reduction="none") * token_weights).sum() / 7
    expected = torch.autograd.grad(plain, (hidden, weight, bias))

    ours = chunked_cross_entropy(
        hidden,
        weight,
        targets,
        bias=bias,
        token_weights=token_weights,
        transform=transform,
        chunk_rows=chunk_rows,
    )
    gradients = torch.autograd.grad(ours / 7, (hidden, weight, bias))

    torch.testing.assert_close(ours / 7, plain)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_a_frozen_head_costs_no_weight_gradient():
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(31, 8)
    chunked_cross_entropy(hidden, weight, torch.randint(31, (5,))).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_under_autocast_the_head_matches_the_plain_one():
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 16, requires_grad=True), torch.randn(50, 16)
    weight.requires_grad_()
    targets = torch.randint(50, (40,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
        ours = chunked_cross_entropy(hidden, weight, targets, chunk_rows=16)
    expected = torch.autograd.grad(plain, (hidden, weight))
    gradients = torch.autograd.grad(ours, (hidden, weight))

    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert gradient.dtype == wanted.dtype == torch.float32
        torch.testing.assert_close(gradient, wanted, rtol=2e-2, atol=2e-2)


def test_a_batch_without_labels_teaches_nothing(random_model):
    model = random_model("llama")
    install_chunked_loss(model)
    batch = batch_with_ignored_labels()
    batch["labels"][:] = -100
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in gradients_of(model).values())


def test_tokens_can_be_weighted(random_model):
    model = random_model("llama")
    install_chunked_loss(model)
    batch = batch_with_ignored_labels()
    first_row_only = torch.zeros(3, 20)
    first_row_only[0] = 2.0

    weighted = model(**batch, loss_weights=first_row_only, num_items_in_batch=10).loss

    row = {name: tensor[[0]] for name, tensor in batch.items()}
    torch.testing.assert_close(weighted, 2 * model(**row, num_items_in_batch=10).loss)


def test_without_labels_the_logits_are_there(random_model):
    model = random_model("llama")
    tokens = batch_with_ignored_labels()["input_ids"]
    before = model(tokens).logits
    install_chunked_loss(model)
    torch.testing.assert_close(model(tokens).logits, before)


def test_a_model_whose_logits_we_misread_has_the_loss_of_its_logits(random_model, monkeypatch):
    model = random_model("gemma2", final_logit_softcapping=2.0)
    monkeypatch.setattr(loss_module, "logit_transform", lambda model: LogitTransform())
    choice = install_chunked_loss(model)
    assert choice.of_logits and choice.is_ours
    assert "equal to its own" in str(choice) and "differs by" in str(choice)
    assert model(**batch_with_ignored_labels()).logits is not None


def test_a_router_loss_is_added_as_the_family_adds_it(random_model):
    model = random_model("mixtral", output_router_logits=True, router_aux_loss_coef=0.5)
    own = model(**batch_with_ignored_labels())
    choice = install_chunked_loss(model)
    assert choice.of_logits and choice.is_ours
    assert "router's loss" in choice.reason and "equal to its own" in choice.reason
    torch.testing.assert_close(model(**batch_with_ignored_labels()).loss, own.loss)


def test_a_micro_batch_adds_its_part_of_the_steps_router_loss(random_model):
    """Four micro-batches would add it four times: the parts of a step sum to one."""
    model = random_model("mixtral", output_router_logits=True, router_aux_loss_coef=0.5)
    batch = batch_with_ignored_labels()
    own = model(**batch)
    cross_entropy = own.loss - 0.5 * own.aux_loss
    supervised = int((batch["labels"][:, 1:] != -100).sum())
    install_chunked_loss(model)
    found = model(**batch, num_items_in_batch=4 * supervised).loss
    torch.testing.assert_close(4 * found, cross_entropy + 0.5 * own.aux_loss)


def test_a_router_loss_without_a_weight_is_the_models_and_warned_of(
    random_model, caplog, monkeypatch
):
    model = random_model("mixtral", output_router_logits=True)
    monkeypatch.setattr(loss_of_logits, "ROUTER_WEIGHTS", ("of_another_name",))
    choice = install_chunked_loss(model)
    assert not choice.is_ours
    assert "does not say what its router's loss weighs" in caplog.text


def test_a_deep_copy_computes_its_own_loss(random_model):
    model = random_model("llama")
    install_chunked_loss(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    uniform = torch.tensor(97.0).log()
    torch.testing.assert_close(twin(**batch_with_ignored_labels()).loss, uniform)


def test_backward_a_second_time_is_an_error():
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(31, 8)
    loss = chunked_cross_entropy(hidden, weight, torch.randint(31, (5,)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_a_model_that_the_chunked_cross_entropy_cannot_run_has_the_loss_of_its_logits(
    random_model, monkeypatch
):
    def fail(*args, **kwargs):
        raise TypeError("no such argument")

    monkeypatch.setattr(loss_module, "supervised_loss", fail)
    model = random_model("llama")
    choice = install_chunked_loss(model)
    assert "cross-entropy of the model's logits (equal to its own within" in str(choice)
    assert "chunked linear cross-entropy fails: no such argument" in str(choice)
    assert model(**batch_with_ignored_labels()).logits is not None


def test_in_float16_the_gradient_of_the_weight_does_not_overflow():
    """Rows whose sum passes 65,504; the loss scale is applied afterwards, and cannot help."""
    rows = 2048
    hidden = torch.full((rows, 8), 60.0, dtype=torch.float16, requires_grad=True)
    weight = torch.zeros(31, 8, dtype=torch.float16, requires_grad=True)
    loss = chunked_cross_entropy(hidden, weight, torch.zeros(rows, dtype=torch.long))
    (loss / rows).backward()
    assert weight.grad is not None
    expected = torch.full((8,), 60.0 * (1 / 31 - 1), dtype=torch.float16)
    torch.testing.assert_close(weight.grad[0], expected, rtol=1e-2, atol=0)


def cpmant() -> CpmAntForCausalLM:
    """Return a tiny CPM-Ant, whose class compares each logit with the token that it has seen."""
    torch.manual_seed(0)
    config = CpmAntConfig(
        vocab_size=97, hidden_size=16, num_attention_heads=2, dim_head=8, dim_ff=32,
        num_hidden_layers=1, prompt_length=2, prompt_types=4, segment_types=4,
    )  # fmt: skip
    return CpmAntForCausalLM(config).eval()


def test_a_family_whose_own_loss_is_unshifted_predicts_the_next_token() -> None:
    model = cpmant()
    batch = batch_with_ignored_labels()
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits
        own = model(**batch).loss
    shifted = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert abs(own - shifted) > 1e-2
    choice = install_chunked_loss(model)
    assert "is not the next-token cross-entropy" in choice.reason
    torch.testing.assert_close(model(**batch).loss, shifted)
    torch.testing.assert_close(model(batch["input_ids"]).logits, logits)


def test_asked_for_by_name_such_a_loss_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    choice = install_chunked_loss(cpmant(), LossPlan(LossHead.model, "asked", asked_for=True))
    assert choice.head is LossHead.model and not choice.is_ours
    assert "is not the next-token cross-entropy" in caplog.text


def test_the_loss_of_logits_is_divided_by_the_steps_tokens_and_weighted() -> None:
    logits, labels = torch.randn(2, 6, 97), torch.randint(97, (2, 6))
    labels[0, :3] = -100
    weights = torch.rand(2, 6)
    each = -logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected = (each * weights * (labels != -100)).sum() / 40
    found = next_token_loss(logits, labels, num_items_in_batch=40, loss_weights=weights)
    torch.testing.assert_close(found, expected)
    assert next_token_loss(logits, torch.full_like(labels, -100)).item() == 0
