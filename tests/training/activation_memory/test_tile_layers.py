"""MLPs and norms in tiles of the sequence: the same numbers, a fraction of the memory."""

import copy
import gc
import itertools
from collections import Counter
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.activation_memory.tile_layers import install_tiles, tile_layers
from sft_app.training.activation_memory.tiled_function import apply_in_tiles
from sft_app.training.activation_memory.tiling_plan import TilingPlan
from sft_app.training.attention import packed_attention
from sft_app.training.attention.choose_attention import use_attention
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.peft.lora import add_adapter
from tests.forked_ranks import on_two_forked_ranks
from tests.training.random_models import build_random_model

RandomModel = Callable[..., PreTrainedModel]
PLAN = TilingPlan(7, "test")


def batch(length: int = 24) -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, 97, (2, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "labels": tokens, "num_items_in_batch": torch.tensor(30)}


def gradients(called: Any) -> dict[str, torch.Tensor]:
    called(**batch()).loss.backward()
    return {n: p.grad for n, p in called.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    expected, found = gradients(theirs), gradients(ours)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=tolerance, rtol=10 * tolerance, msg=name
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi", "cohere"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_whole_rows(
    random_model: RandomModel, family: str, checkpointing: bool
) -> None:
    """A post-norm, biases, Conv1D, an MLP beside attention: each in tiles that end anywhere."""
    whole = random_model(family)
    tiled = copy.deepcopy(whole)
    assert tile_layers(tiled, PLAN).tile_tokens == 7
    for model in (whole, tiled):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            switch_off_dropout(model.train())
        install_chunked_loss(model)
    assert_same_gradients(tiled, whole)


def switch_off_dropout(model: nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_gets_its_gradients(random_model: RandomModel, checkpointing: bool) -> None:
    lora = AdapterConfig(method=AdapterMethod.lora, rank=4)
    trained = []
    for tiled in (False, True):
        model = random_model("llama")
        wrapped = add_adapter(model, lora, seed=0)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:  # zero at first, and A would get no gradient
                nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            model.train()
        if tiled:
            assert tile_layers(model, PLAN, called=wrapped).tile_tokens == 7
        trained.append(wrapped)
    assert_same_gradients(trained[1], trained[0])


def test_mixed_precision_is_that_of_whole_rows(random_model: RandomModel) -> None:
    """The matrix products of a tile are bfloat16 in backward too, where autocast has ended."""
    whole = random_model("llama")
    tiled = copy.deepcopy(whole)
    found, products = [], []
    for model in (whole, tiled):
        install_chunked_loss(model)
        if model is tiled:
            install_tiles(model, 7)
        last: Any = model.get_submodule("model.layers.0.mlp.down_proj")
        last.register_forward_hook(lambda _, __, output: products.append(output.dtype))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch()).loss
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert set(products) == {torch.bfloat16}
    assert (found[1] - found[0]).norm() < 0.02 * found[0].norm()


class DropsByAFunction(nn.Sequential):
    """As the MLPs of Starcoder-2 and Seed-OSS, which have no layer for it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(hidden), 0.5, self.training)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4)),
        DropsByAFunction(nn.Linear(4, 8), nn.Linear(8, 4)),
    ],
    ids=["layer", "function"],
)
def test_dropout_draws_the_same_numbers_again(module: nn.Module) -> None:
    """The gradient by differences: of a function that drops the same units in each call."""
    module = module.double()
    hidden = torch.randn(1, 11, 4, dtype=torch.double, requires_grad=True)

    def call(hidden: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return apply_in_tiles(module, module.forward, hidden, 3)

    def follows() -> torch.Tensor:
        call(hidden).sum().backward()
        return torch.rand(1)

    assert torch.autograd.gradcheck(call, (hidden,))
    assert follows() == follows()


def test_gradients_in_16_bits_are_summed_in_32() -> None:
    """Many tiles, each with a term that bfloat16 would lose beside the sum."""
    module = nn.Linear(1, 1, bias=False).bfloat16()
    hidden = torch.full((1, 1025, 1), 2.0**-8, dtype=torch.bfloat16)
    hidden[0, 0] = 1.0
    apply_in_tiles(module, module.forward, hidden, 1).sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.item() == 1.0 + 1024 * 2.0**-8


def test_hooks_of_a_parameter_run_once_for_each_call(random_model: RandomModel) -> None:
    """DDP reduces, and FSDP shards, when a parameter's gradient arrives: it is whole then."""
    model = random_model("llama")
    install_tiles(model, 7)
    fired: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: fired.update([name]))
    model(**batch()).loss.backward()
    assert set(fired.values()) == {1} and len(fired) == len(list(model.parameters()))


def step(model: PreTrainedModel, length: int) -> Callable[[], None]:
    tokens = torch.zeros(1, length, dtype=torch.long)
    return lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()


def scaled_8b(length: int, *, tiled: bool, layers: int) -> PreTrainedModel:
    """Llama 3 8B at an eighth of its width; a tile is to the row what 4,096 is to 128k."""
    packed_attention.register()
    model = build_random_model(
        "llama", hidden_size=512, intermediate_size=1792, num_attention_heads=16,
        num_key_value_heads=4, num_hidden_layers=layers, max_position_embeddings=length,
    )  # fmt: skip
    use_attention(model, packed_attention.NAME)
    install_chunked_loss(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    if tiled:
        install_tiles(model, length // 32)
    return model.train()


def test_a_checkpointed_mlp_is_not_computed_a_third_time() -> None:
    """Matrix products of a step, counted by torch: one more in each MLP, its last, which has to
    run for autograd to go back through it."""
    counts = []
    for tiled in (False, True):
        model = scaled_8b(128, tiled=tiled, layers=2)
        with FlopCounterMode(display=False) as counter:
            step(model, 128)()
        counts.append(counter.get_total_flops())
    assert counts[1] - counts[0] == 2 * (2 * 128 * 512 * 1792)


def peak(work: Callable[[], None]) -> int:
    """Bytes that `work` has at a time beside what was there before."""
    gc.collect()  # what is freed meanwhile would count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes))


def test_the_peak_of_a_layer_is_less_than_three_tenths() -> None:
    """Of all that a step over frozen weights holds at a time, the layer's input included."""
    peaks = []
    for tiled in (False, True):
        model = scaled_8b(2048, tiled=tiled, layers=1).bfloat16().requires_grad_(False)
        peaks.append(peak(step(model, 2048)))
    assert peaks[1] < 0.3 * peaks[0]


def test_an_mlp_that_looks_around_is_left_as_it_is(random_model: RandomModel) -> None:
    model = random_model("llama")

    def mixing(self: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + hidden.mean(-2, keepdim=True)

    mlp: Any = model.get_submodule("model.layers.0.mlp")
    mlp.forward = MethodType(mixing, mlp)
    choice = tile_layers(model, PLAN)
    assert choice.tile_tokens is None and "other hidden states" in choice.reason
    assert mlp.forward.__func__ is mixing
    with pytest.raises(ConfigError, match=r"tiled_mlp=true cannot be used here: .*tiled_mlp=false"):
        tile_layers(model, TilingPlan(7, "trainer.tiled_mlp=true", asked_for=True))


@pytest.mark.parametrize(("family", "reason"), [("mixtral", "experts"), ("opt", "does not name")])
def test_families_without_such_mlps_say_so(
    random_model: RandomModel, family: str, reason: str
) -> None:
    choice = tile_layers(random_model(family), PLAN)
    assert choice.tile_tokens is None and reason in choice.reason


def ddp_gradients() -> dict[str, Any]:
    model = build_random_model("llama")
    install_chunked_loss(model)
    install_tiles(model, 7)
    found = gradients(DistributedDataParallel(model))
    return {name.removeprefix("module."): gradient.numpy() for name, gradient in found.items()}


def test_ddp_reduces_them_once(random_model: RandomModel) -> None:
    expected = gradients(random_model("llama"))
    for found in on_two_forked_ranks(ddp_gradients):
        for name, gradient in expected.items():
            torch.testing.assert_close(
                torch.from_numpy(found[name]), gradient, atol=1e-5, rtol=1e-4
            )
