"""Compiled layers train as the plain ones do, whatever documents a batch has.

Through the command, with DDP and FSDP: tests/integration/test_training.py.
"""

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.activation_memory.tile_layers import install_tiles
from sft_app.training.attention import packed_attention
from sft_app.training.callbacks.compile_layers import CompileLayers, check_compiler
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.peft.lora import add_adapter, merge_adapter

Batch = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def compiled_anew():
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def quick_backend(monkeypatch):
    """The graphs as inductor would get them, run without compiling C++."""
    quick = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr("sft_app.training.callbacks.compile_layers.torch.compile", quick)


def row_of(*documents: int) -> Batch:
    """One packed row of documents of these lengths."""
    tokens = torch.randint(3, 97, (1, sum(documents)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in documents])[None]
    return {"input_ids": tokens, "labels": tokens, "position_ids": positions}


ROWS = [row_of(9, 11, 4), row_of(24), row_of(3, 20, 1)]


def prepared(model: PreTrainedModel) -> PreTrainedModel:
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    install_chunked_loss(model)
    return model.train()


def num_compiled() -> int:
    return counters["stats"]["unique_graphs"]


def train(trained: Any, model: PreTrainedModel, *, compiled: bool) -> list[float]:
    """A step on each row; the losses. `model` is the one inside `trained`."""
    callback = CompileLayers(model)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    if compiled:
        callback.on_train_begin()
    for row in ROWS:
        loss = trained(**row, num_items_in_batch=23).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    if compiled:
        callback.on_train_end()
    return losses


def assert_same_weights(ours: Any, theirs: Any) -> None:
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)


def check_equal(models: Sequence[PreTrainedModel]) -> None:
    plain, compiled = models
    losses = train(compiled, compiled, compiled=True)
    assert losses == pytest.approx(train(plain, plain, compiled=False), abs=1e-5)
    assert_same_weights(compiled, plain)
    assert num_compiled() > 0


@pytest.mark.slow
def test_steps_equal_plain_ones(random_model):
    check_equal([prepared(random_model("llama")) for _ in range(2)])


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [{}, {"use_reentrant": False}, {"use_reentrant": True}])
def test_what_is_recomputed_is_compiled(random_model, quick_backend, checkpointing):
    models = [prepared(random_model("llama")) for _ in range(2)]
    for model in models:
        model.gradient_checkpointing_enable(checkpointing)
        model.enable_input_require_grads()
    check_equal(models)


@pytest.mark.slow
def test_tiles_stay_outside_of_what_is_compiled(random_model, quick_backend):
    models = [prepared(random_model("llama")) for _ in range(2)]
    for model in models:
        install_tiles(model, 7)
    check_equal(models)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "mixtral"])
def test_other_families_are_compiled_as_well(random_model, quick_backend, family):
    check_equal([prepared(random_model(family)) for _ in range(2)])


@pytest.mark.slow
def test_an_adapter_is_compiled_with_its_layer_and_merges(random_model, quick_backend):
    lora = AdapterConfig(method=AdapterMethod.lora, rank=4)
    inner = [prepared(random_model("llama")) for _ in range(2)]
    plain, compiled = [add_adapter(model, lora, seed=0) for model in inner]
    losses = train(compiled, inner[1], compiled=True)
    assert losses == pytest.approx(train(plain, inner[0], compiled=False), abs=1e-5)
    assert_same_weights(compiled, plain)
    assert_same_weights(merge_adapter(compiled), merge_adapter(plain))


def test_other_documents_compile_nothing_anew(random_model, quick_backend):
    model = prepared(random_model("llama", num_hidden_layers=4))
    callback = CompileLayers(model)
    callback.on_train_begin()
    for row in (row_of(9, 11, 4), row_of(24)):  # one document needs no list of documents
        model(**row).loss.backward()
    compiled = num_compiled()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for documents in ([3, 3, 3, 3, 12], [20, 4], [1, 23], [24], [2] * 12, [8, 8, 8]):
            model(**row_of(*documents)).loss.backward()
    callback.on_train_end()
    assert num_compiled() == compiled
    assert compiled <= 2 * 4, "equal layers share what is compiled"


@pytest.mark.slow
def test_rows_of_any_length_are_compiled_twice_at_most(random_model, quick_backend):
    model = prepared(random_model("llama"))
    callback = CompileLayers(model)
    callback.on_train_begin()
    for length in (24, 30):
        model(**row_of(length)).loss.backward()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (25, 31, 47, 64, 90):
            model(**row_of(length)).loss.backward()
    callback.on_train_end()


def test_afterwards_the_model_is_plain(random_model, quick_backend):
    model = prepared(random_model("llama"))
    before = [set(vars(layer)) for layer in model.model.layers]
    train(model, model, compiled=True)
    assert [set(vars(layer)) for layer in model.model.layers] == before
    compiled = num_compiled()
    with torch.no_grad():
        model.eval()(torch.arange(3, 40)[None])
    assert num_compiled() == compiled


@pytest.mark.slow
def test_without_a_compiler_the_way_out_is_named(monkeypatch):
    check_compiler(torch.device("cpu"))
    torch._dynamo.reset()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(
        ConfigError, match=r"needs a C\+\+ compiler .* leave trainer\.torch_compile out"
    ):
        check_compiler(torch.device("cpu"))


def test_a_model_that_does_not_name_its_layers_is_refused(random_model, monkeypatch):
    model = random_model("llama")
    monkeypatch.setattr(model, "_no_split_modules", None)
    with pytest.raises(ConfigError, match="does not name its layers"):
        CompileLayers(model)
