"""Frozen weights in 4 bits: what they become, what they take, and that an adapter learns."""

from typing import Any

import pytest
import torch

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod, Quantization
from sft_app.config.schema.trainer import LossHead, TrainerConfig
from sft_app.training.estimates.memory_estimate import estimate_memory
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.metrics.flops import shape_of
from sft_app.training.peft.lora import add_adapter
from sft_app.training.peft.quantize import layers_to_quantise, quantise

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.slow  # where bitsandbytes is installed

CPU = torch.device("cpu")
WIDE = {"hidden_size": 64, "intermediate_size": 128}


def qlora(**settings) -> AdapterConfig:
    return AdapterConfig(method=AdapterMethod.qlora, rank=4, **settings)


def batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, 97, (4, 24), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "labels": tokens}


def normal_float_levels() -> torch.Tensor:
    """arXiv:2305.14314, section 3: quantiles of a normal distribution, with a zero among them."""
    outermost = 0.9677083
    positive = torch.special.ndtri(torch.linspace(outermost, 0.5, 9)[:-1])
    negative = -torch.special.ndtri(torch.linspace(outermost, 0.5, 8)[:-1])
    levels = torch.cat([positive, torch.zeros(1), negative]).sort().values
    return levels / levels.max()


def rounded(weight: torch.Tensor) -> torch.Tensor:
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    levels = normal_float_levels()
    nearest = (blocks / largest).unsqueeze(-1).sub(levels).abs().argmin(dim=-1)
    return (levels[nearest] * largest).reshape(weight.shape)


def test_a_weight_becomes_the_nearest_of_16_levels_of_its_block(random_model) -> None:
    from bitsandbytes.functional import dequantize_4bit

    model = random_model("llama", **WIDE)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = [f"{name}.weight" for name in layers_to_quantise(model)]
    quantise(model, qlora(double_quantization=False), CPU)
    assert len(names) == 2 * 7
    for name, parameter in model.named_parameters():
        if name in names:
            assert not parameter.requires_grad
            values = dequantize_4bit(parameter.data, parameter.quant_state)
            torch.testing.assert_close(values, rounded(before[name]), atol=1e-6, rtol=1e-5)
        else:
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("double", [False, True])
def test_the_memory_estimate_knows_weights_in_4_bits(random_model, double: bool) -> None:
    model = random_model("llama", **WIDE)
    adapter = qlora(double_quantization=double)
    options: dict[str, Any] = {"context_length": 64, "chunk_bytes": 2**14}
    options |= {"dtype": torch.float32, "compute_dtype": torch.float32}
    expected = estimate_memory(model.config, TrainerConfig(), adapter, **options)
    quantise(model, adapter, CPU)
    trained = add_adapter(model, adapter, seed=0)
    held = 0
    for parameter in trained.parameters():
        held += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:  # beside tables of a kilobyte, which do not grow
            held += state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
    assert expected.weights == held
    assert expected.num_parameters == sum(
        p.numel() if not hasattr(p, "quant_state") else p.quant_state.shape.numel()
        for p in trained.parameters()
    )


@pytest.mark.parametrize("quantization", list(Quantization))
def test_an_adapter_learns_beside_weights_in_4_bits(
    random_model, quantization: Quantization
) -> None:
    unquantised: Any = add_adapter(random_model("llama", **WIDE), qlora(), seed=0)
    whole = shape_of(unquantised.get_base_model())
    model = random_model("llama", **WIDE)
    quantise(model, qlora(quantization=quantization), CPU)
    trained = add_adapter(model, qlora(), seed=0)
    assert shape_of(model) == whole, "the same arithmetic"
    assert install_chunked_loss(model, called=trained).head is LossHead.chunked
    frozen = {n: p.detach().clone() for n, p in trained.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = trained.train()(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    for name, parameter in trained.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if name in frozen:
            assert torch.equal(parameter, frozen[name])


def test_the_gradient_is_that_of_the_dequantised_weights(random_model) -> None:
    from bitsandbytes.functional import dequantize_4bit

    gradients = []
    for dequantised in (False, True):
        model = random_model("llama", **WIDE)
        if not dequantised:
            quantise(model, qlora(), CPU)
            values = {
                name: dequantize_4bit(p.data, p.quant_state)
                for name, p in model.named_parameters()
                if hasattr(p, "quant_state")
            }
        else:
            model.load_state_dict(values, strict=False)
        trained = add_adapter(model, qlora(), seed=0)
        with torch.no_grad():  # B starts at zero, and then A has no gradient
            for name, parameter in trained.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.01)
        trained.eval()(**batch())  # an evaluation before training changes nothing
        trained.train()(**batch()).loss.backward()
        gradients.append({n: p.grad for n, p in trained.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-3)


def test_only_rows_of_whole_blocks_are_quantised(random_model) -> None:
    model = random_model("llama", hidden_size=64, intermediate_size=96)
    names = {name.rpartition(".")[2] for name in layers_to_quantise(model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_without_anything_to_quantise_is_refused(random_model, family: str) -> None:
    with pytest.raises(ConfigError, match="use adapter=lora"):
        quantise(random_model(family, intermediate_size=48), qlora(), CPU)
