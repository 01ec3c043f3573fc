"""What a checkpoint has in float32 among bfloat16 is not rounded on its way through a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from sft_app.compat import model_internals
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import plan_weights
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.save_pretrained import save_for_serving, saved_dtypes
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.training.peft.lora import merge_adapter, put_adapter
from sft_app.training.precision import plan_precision, round_weights
from tests.loader.published import write_published

WIDE = {"glm-4.5": "mlp.gate.weight", "qwen3-moe": "input_layernorm.weight"}
"""Family -> end of the names that its files have in float32; GLM's are published so."""


@pytest.mark.parametrize("family", WIDE)
def test_float32_tensors_reach_the_saved_file_bit_for_bit(
    compose: Callable[..., AppConfig], tmp_path: Path, family: str
) -> None:
    """Through an adapter's step in bfloat16; families know some routers by name, norms nowhere."""
    source = write_published(family, tmp_path / "source")
    file = source / "model.safetensors"
    weights = {
        name: torch.rand_like(tensor, dtype=torch.float32)
        if name.endswith(WIDE[family])
        else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
    config = compose(
        f"model.name_or_path={source}", "model.dtype=bfloat16", "adapter=lora",
        "launch.device=cpu", "context_length=64",
    )  # fmt: skip
    device = torch.device("cpu")
    pretrained = load_pretrained_config(config.model)
    plan = plan_weights(config.model, pretrained)
    rope = plan_rope(pretrained, 64, RopeConfig())
    tokenizer, tokenizer_plan = load_tokenizer(config.tokenizer, config.model, pretrained)
    precision = plan_precision(config, pretrained, plan, device)
    kept = [name for name in weights if name.endswith(WIDE[family])]
    assert kept and f"{len(plan.tensor_dtypes)} tensors stay float32" in str(precision)

    model = load_model(
        config.model, pretrained, rope, frozen=True, float32_names=precision.float32_names
    )
    trained = put_adapter(model, config.adapter)
    ids = torch.arange(3, 40)[None]
    with precision.computing(device):
        loss = trained(input_ids=ids, labels=ids).loss
    loss.backward()
    assert loss.isfinite()
    merged = merge_adapter(trained)
    round_weights(merged, precision.saved, saved_dtypes(merged, plan, precision.saved))
    save_for_serving(
        merged, tokenizer, rope, tokenizer_plan, tmp_path / "saved",
        weights_plan=plan, dtype=precision.saved,
    )  # fmt: skip
    after = load_file(tmp_path / "saved/model.safetensors")
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in weights.items()}
    for name in kept:
        assert not torch.equal(weights[name], weights[name].bfloat16().float()), "a poor test"
        assert torch.equal(after[name], weights[name]), name


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_stacked_experts_are_multiplied_in_autocasts_dtype(random_model: Any, family: str) -> None:
    """PyTorch's kernel for them does not know autocast; one matrix after the other does."""
    model_internals.experts_follow_autocast()
    model_internals.experts_follow_autocast()  # once is enough, and twice is no harm
    seen = set()

    class Noting(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch._grouped_mm:
                seen.add((args[0].dtype, args[1].dtype))
            return func(*args, **(kwargs or {}))

    tokens = torch.randint(3, 90, (1, 24), generator=torch.Generator().manual_seed(0))
    stacked, one_by_one = random_model(family), random_model(family)
    one_by_one.set_experts_implementation("eager")
    exact = stacked(input_ids=tokens).logits
    with Noting(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = stacked(input_ids=tokens).logits
        expected = one_by_one(input_ids=tokens).logits
    assert seen == {(torch.bfloat16, torch.bfloat16)}
    rounding = (expected - exact).norm()
    assert rounding > 0 and (found - expected).norm() < rounding
    found.sum().backward()
    gradients = [p.grad for n, p in stacked.named_parameters() if n.endswith("gate_up_proj")]
    assert gradients and all(g is not None and g.dtype == torch.float32 for g in gradients)


def test_where_they_cannot_be_kept_the_plan_says_how_many_are_rounded(
    compose: Callable[..., AppConfig], tmp_path: Path
) -> None:
    source = write_published("glm-4.5", tmp_path)
    config = compose(
        f"model.name_or_path={source}", "model.dtype=bfloat16", "trainer.bf16=false",
        "launch.device=cpu",
    )  # fmt: skip
    pretrained = load_pretrained_config(config.model)
    weights = plan_weights(config.model, pretrained)
    precision = plan_precision(config, pretrained, weights, torch.device("cpu"))
    assert precision.float32_names == () and precision.rounded == len(weights.tensor_dtypes)
    assert "are rounded to bfloat16" in str(precision)
