"""Plans for GPUs that are not here, on published shapes: closed forms and what they must say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.validate import validate
from sft_app.training.estimates.absent_hardware import HardwarePlan, plan_hardware
from sft_app.training.estimates.memory_estimate import estimate_memory
from sft_app.training.model_plan import plan_everything, plan_model

Compose = Callable[..., AppConfig]

LLAMA_3_1_8B = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
    num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072,
)  # fmt: skip
PARAMETERS = 8_030_261_248  # as its model card counts them


TWO_LAYERS = LlamaConfig(**{**LLAMA_3_1_8B.to_dict(), "num_hidden_layers": 2})


def planned(config: AppConfig, model: LlamaConfig) -> HardwarePlan:
    return plan_hardware(config, model, documents=(4096,) * 100, num_rows=100, supervised_share=0.5)


def test_eight_billion_parameters_of_adam_do_not_fit_whole_and_do_in_shards(
    compose: Compose,
) -> None:
    full = planned(compose("plan.gpu=h100", "plan.gpus=8", "context_length=4096"), LLAMA_3_1_8B)
    assert full.memory.num_parameters == PARAMETERS
    assert full.memory.gradients == full.memory.buckets == 4 * PARAMETERS
    assert full.memory.optimizer == 8 * PARAMETERS
    assert (full.fits, full.longest) == (False, 0)
    shards = next(knob for knob in full.knobs if knob.override == "trainer.parallelism=fsdp")
    assert shards.total < full.memory.total / 2
    words = {knob.override for knob in full.knobs}
    assert {"adapter=lora", "trainer.gradient_checkpointing=true"} < words
    assert full.knobs[0].longest == max(knob.longest for knob in full.knobs)


def test_the_longest_context_fits_and_the_next_does_not_and_time_is_arithmetic(
    compose: Compose,
) -> None:
    """6 N n for the body, whose N is known, the head at supervised tokens, attention's n^2."""
    config = compose("plan.gpu=h100", "plan.gpus=8", "plan.utilisation=0.5", "context_length=4096")
    plan = planned(config, TWO_LAYERS)
    assert plan.fits and plan.longest % 256 == 0
    beyond = estimate_memory(
        TWO_LAYERS, config.trainer, config.adapter, context_length=plan.longest + 256,
        dtype=torch.float32, compute_dtype=torch.bfloat16, chunk_bytes=512 * 2**20, num_replicas=8,
    )  # fmt: skip
    one_step = (beyond.total - plan.memory.total) / (plan.longest + 256 - 4096) * 256
    assert 80e9 - 1.1 * one_step < beyond.total - one_step <= 80e9 < beyond.total

    body = 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    head = 128256 * 4096
    tokens = 100 * 4096
    flops = 6 * body * tokens + 6 * head * tokens / 2 + 100 * 6 * 2 * 4096 * 4096**2
    assert plan.gpu_hours == pytest.approx(flops / (0.5 * 989.4e12) / 3600, rel=1e-6)
    assert plan.seconds == pytest.approx(plan.gpu_hours * 3600 / 8)


def test_packed_documents_take_the_time_of_each_and_not_of_whole_rows(
    compose: Compose, tiny_model: Path, chat_file: Path
) -> None:
    config = compose(
        f"model.name_or_path={tiny_model}", f"data.train={chat_file}", "context_length=256",
        "plan.gpu=h100", "plan.utilisation=0.5", "trainer.num_train_epochs=1", "rope=linear",
    )  # fmt: skip
    plan = plan_everything(config)
    assert plan.hardware is not None
    rows = [plan.data.train[i]["position_ids"] for i in range(len(plan.data.train))]
    starts = [int((row == 0).sum()) for row in rows]
    assert max(starts) > 1, "packed"
    tokens = sum(map(len, rows))
    squares = sum(
        (int(stretch.max()) + 1) ** 2
        for row in rows
        for stretch in torch.tensor_split(row, (row[1:] == 0).nonzero().flatten() + 1)
    )
    body = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    head = LlamaConfig.from_pretrained(tiny_model).vocab_size * 32
    supervised = plan.data.statistics.train.supervised_tokens
    flops = 6 * body * tokens + 6 * head * supervised + 6 * 2 * 32 * squares
    assert plan.hardware.gpu_hours == pytest.approx(flops / (0.5 * 989.4e12) / 3600, rel=1e-3)


def test_attention_is_planned_for_the_gpu_that_is_named(compose: Compose, tiny_model: Path) -> None:
    """This machine, which may have none, is not asked."""
    config = compose(f"model.name_or_path={tiny_model}", "context_length=64", "plan.gpu=h100")
    here = plan_model(config, torch.device("cpu"))
    there = plan_model(config, torch.device("cpu"), kernels_for=torch.device("cuda"))
    assert "flash kernel" in there.attention.reason
    assert "flash kernel" not in here.attention.reason


LLAMA_3_2_1B = LlamaConfig(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
    num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072,
    tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "length", "settings"),
    [
        pytest.param(LLAMA_3_2_1B, 524_288, (), id="1B, all parameters"),
        pytest.param(LLAMA_3_1_8B, 262_144, ("adapter=lora",), id="8B, LoRA"),
    ],
)
def test_long_contexts_fit_one_gpu_with_tiles_and_offload_and_not_without(
    compose: Compose, model: LlamaConfig, length: int, settings: tuple[str, ...]
) -> None:
    checkpointing = (
        "plan.gpu=h100", f"context_length={length}", *settings,
        "trainer.gradient_checkpointing=true",
    )  # fmt: skip
    offload = "+trainer.gradient_checkpointing_kwargs.offload=true"
    both = planned(compose(*checkpointing, offload), model)
    assert both.fits and both.longest >= length
    whole_rows = planned(compose(*checkpointing, offload, "trainer.tiled_mlp=false"), model)
    assert not whole_rows.fits and whole_rows.longest < 0.7 * length
    on_the_device = planned(compose(*checkpointing), model)
    assert not on_the_device.fits
    assert on_the_device.knobs[0].override == offload, "what buys most is named first"
    residual = 4 if model is LLAMA_3_2_1B else 2  # bytes: float32 above trained weights
    inputs = residual * model.hidden_size * length
    saved = on_the_device.memory.activations - both.memory.activations
    assert saved == pytest.approx((model.num_hidden_layers - 2) * inputs, rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["plan.gpu=h101"], r"plan\.gpu=h101 is not known\. Did you mean plan\.gpu=h100"),
        (
            ["plan.gpu=h100", "plan.gpus=3", "trainer.context_parallel_size=2"],
            r"plan\.gpus=3 .* plan\.gpus=2",
        ),
    ],
)
def test_hardware_that_nobody_knows_is_refused(
    compose: Compose, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(compose(*overrides))
