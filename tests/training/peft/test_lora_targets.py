"""adapter.target_modules: every name has a layer, and what is merged is what was trained."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.peft.lora import add_adapter, merge_adapter, put_adapter


def lora_on(*targets: str) -> AdapterConfig:
    return AdapterConfig(method=AdapterMethod.lora, target_modules=list(targets))


@pytest.mark.parametrize(
    ("family", "targets", "without_layer"),
    [
        ("llama", ["q_proj", "vproj"], "vproj"),
        ("llama", ["all-linear", "lm_head"], "all-linear"),
        ("qwen3_moe", ["q_proj", "down_prj"], "down_prj"),
    ],
)
def test_a_name_without_a_layer_is_refused_beside_names_that_have_one(
    small_family, family: str, targets: list[str], without_layer: str
) -> None:
    with pytest.raises(ConfigError, match=f"the model has no layer {without_layer} for an adapter"):
        put_adapter(small_family(family), lora_on(*targets))


@pytest.mark.parametrize(
    ("family", "targets", "adapted"),
    [
        ("llama", ["q_proj", "lm_head"], ["q_proj", "lm_head"]),
        ("llama", ["layers.0.self_attn.q_proj", "embed_tokens"], ["q_proj", "embed_tokens"]),
        ("qwen3_moe", ["q_proj", "down_proj"], ["q_proj", "experts"]),
    ],
)
def test_linear_layers_embeddings_and_stacked_experts_have_names(
    small_family, family: str, targets: list[str], adapted: list[str]
) -> None:
    model = put_adapter(small_family(family), lora_on(*targets))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for layer in adapted:
        assert any(layer in name for name in trained)


@pytest.mark.parametrize("layer", ["lm_head", "wte"])
def test_an_adapter_on_one_of_two_layers_with_one_weight_is_refused(
    small_family, layer: str
) -> None:
    """Merged, it would be in the embedding and in the head, and was trained in one of them."""
    with pytest.raises(ConfigError, match=rf"{layer} has its weight in common with .*; leave it"):
        put_adapter(small_family("gpt2"), lora_on("c_attn", layer))


@pytest.mark.parametrize(
    ("family", "some"),
    [
        ("falcon", ["query_key_value", "dense_h_to_4h"]),  # a linear layer of a class of its own
        ("llama4_text", ["q_proj"]),  # its router is a linear layer in name alone
        ("mamba", ["in_proj"]),
        ("mamba2", ["in_proj"]),
        ("falcon_mamba", ["in_proj"]),
        ("falcon_h1", ["in_proj", "q_proj", "down_proj"]),
        ("nemotron_h", ["in_proj", "q_proj", "down_proj"]),
        ("jamba", ["in_proj", "x_proj", "q_proj"]),
        ("longcat_flash", ["q_b_proj", "down_proj"]),
        ("deepseek_v3", ["q_proj", "down_proj"]),
        ("bloom", ["query_key_value", "dense"]),
    ],
)
def test_each_adapter_of_all_linear_is_called_and_merged(
    small_family, family: str, some: list[str]
) -> None:
    model = put_adapter(small_family(family), lora_on("all-linear"))
    into_output = {n: p for n, p in model.named_parameters() if "lora_B" in n}
    for layer in some:
        assert any(f".{layer}." in name for name in into_output), layer
    for parameter in into_output.values():
        nn.init.normal_(parameter, std=0.02)  # zeros would hide the other half from backward
    tokens = torch.randint(3, 97, (8, 40), generator=torch.Generator().manual_seed(0))
    logits = model(input_ids=tokens, labels=tokens)
    logits.loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".experts" not in name:  # not every expert is asked
            assert parameter.grad is not None and parameter.grad.any(), name
    with torch.no_grad():
        merged = merge_adapter(model)(input_ids=tokens).logits
    torch.testing.assert_close(merged, logits.logits.detach(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("family", "targets", "layer"),
    [
        ("jamba", ["in_proj", "dt_proj"], "dt_proj"),
        ("mamba", ["in_proj", "x_proj"], "x_proj"),
        ("mamba2", ["in_proj", "out_proj"], "out_proj"),
        ("bamba", ["q_proj", "out_proj"], "out_proj"),
        ("granitemoehybrid", ["out_proj"], "out_proj"),
    ],
)
def test_a_layer_whose_weight_is_read_past_it_takes_no_adapter(
    small_family, family: str, targets: list[str], layer: str
) -> None:
    with pytest.raises(ConfigError, match=rf"reads the weight of \S*{layer} past the layer"):
        put_adapter(small_family(family), lora_on(*targets))


MIXTURES = [
    "deepseek_v3",
    "glm4_moe",
    "qwen3_next",
    "dots1",
    "hunyuan_v1_moe",
    "longcat_flash",
    "afmoe",
]
"""With dense layers, shared experts or gates that are called as the matrices of experts were."""


@pytest.mark.parametrize("family", [*MIXTURES, "beam", "qwen2_moe", "mixtral"])
def test_all_linear_is_every_linear_layer_but_the_head(small_family, family) -> None:
    plain = small_family(family)
    linear = {n for n, m in plain.named_modules() if isinstance(m, nn.Linear)}
    uncalled = {n for n in linear if n.endswith("router.classifier")}  # LongCat's
    expected = linear - uncalled - {"lm_head"}
    model = put_adapter(plain, lora_on("all-linear"))
    adapted = {
        name.removeprefix("base_model.model.").partition(".lora_")[0]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert {name for name in adapted if "experts" not in name.split(".")} == expected


@pytest.mark.parametrize(
    ("family", "targets", "adapted"),
    [
        ("deepseek_v3", ["down_proj"], {"mlp", "shared_experts", "experts"}),
        ("gpt_oss", ["q_proj", "gate_up_proj", "down_proj"], {"self_attn", "experts"}),
        ("qwen2_moe", ["down_proj"], {"shared_expert", "experts"}),
    ],
)
def test_a_name_means_layers_and_experts_alike(small_family, family, targets, adapted) -> None:
    model = put_adapter(small_family(family), lora_on(*targets))
    trained = {n.partition(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad}
    around = {n.removesuffix(".base_layer") for n in trained}
    assert {
        n.rpartition(".")[2] if n.endswith("experts") else n.split(".")[-2] for n in around
    } == adapted


@pytest.mark.parametrize("family", MIXTURES)
def test_peft_reads_the_adapter_that_was_trained(small_family, tmp_path, family: str) -> None:
    plain = small_family(family)
    plain.save_pretrained(tmp_path / "base")
    model: Any = put_adapter(plain, lora_on("all-linear")).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(tmp_path / "adapter")
    tokens = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    read = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            read(input_ids=tokens).logits, model(input_ids=tokens).logits, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("family", "method", "left"),
    [
        ("gpt_oss", "lora", "; left as they are: experts.gate_up_proj, experts.down_proj"),
        ("deepseek_v3", "lora", ""),
        (
            "deepseek_v3",
            "qlora",
            "; left as they are: mlp.gate_proj, mlp.up_proj, mlp.down_proj, "
            "shared_experts.gate_proj, shared_experts.up_proj, shared_experts.down_proj",
        ),
        ("llama", "lora", ""),
    ],
)
def test_what_has_no_adapter_is_told(small_family, caplog, family: str, method, left: str) -> None:
    with caplog.at_level("INFO"):
        add_adapter(small_family(family), AdapterConfig(method=AdapterMethod(method)), seed=0)
    assert caplog.messages[-1].endswith(f"parameters are trained{left}")


def test_dropout_beside_a_parameter_is_refused(small_family) -> None:
    adapter = AdapterConfig(method=AdapterMethod.lora, dropout=0.1)
    with pytest.raises(ConfigError, match=r"adapter\.dropout=0\.1: .* set adapter\.dropout=0"):
        put_adapter(small_family("mixtral"), adapter)
