"""adapter.target_modules: every name has a layer, and what is merged is what was trained."""

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.peft.lora import put_adapter


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
