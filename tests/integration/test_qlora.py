"""adapter=qlora from end to end: 4 bits while it trains, full precision in what is saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.records.result import Evaluation
from tests.integration.trained_runs import Run, Trained, run_training

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.slow

RANK, ALPHA = 4, 32.0


@pytest.fixture(scope="module")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with rows of whole blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    directory = tmp_path_factory.mktemp("models") / "wide-llama"
    shutil.copytree(tiny_model, directory)
    config = LlamaConfig.from_pretrained(tiny_model, hidden_size=64, intermediate_size=128)
    config.head_dim = 16
    set_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def train(
    run_command: Run, wide_model: Path, chat_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trained]:
    cache = tmp_path_factory.mktemp("cache")

    def run(*overrides: str) -> Trained:
        overrides = (
            "adapter=qlora",
            f"adapter.rank={RANK}",
            "tokenizer.add_tokens=[spell]",
            "trainer.save_steps=3",
            "trainer.lr_scheduler_type=constant",
            *overrides,
        )
        work = tmp_path_factory.mktemp("run")
        return run_training(run_command, wide_model, chat_file, *overrides, work=work, cache=cache)

    return run


@pytest.fixture(scope="module")
def trained(train: Callable[..., Trained]) -> Trained:
    return train()


def test_the_adapter_alone_is_trained_and_lowers_both_losses(trained: Trained) -> None:
    result = trained.result
    assert result.num_parameters and result.num_trainable_parameters
    assert result.num_trainable_parameters < 0.2 * result.num_parameters
    assert trained.losses[-1] < trained.losses[0]
    before, after = result.evaluation_before, result.evaluation_after
    assert before and before.heldout and after and after.heldout
    assert after.heldout.loss < before.heldout.loss
    assert "quantisation    nf4 with quantised constants" in trained.log
    assert "adapter         merged into weights in torch.float32" in trained.log
    assert "loss            chunked linear cross-entropy (equal" in trained.log


def test_the_saved_model_is_the_base_in_full_precision_plus_the_adapter(
    trained: Trained, wide_model: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    base = load_file(wide_model / "model.safetensors")
    adapter = load_file(
        trained.directory / "checkpoints" / "checkpoint-6" / "adapter_model.safetensors"
    )
    saved = trained.weights()
    adapted = 0
    for name, weight in base.items():
        low_rank = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{low_rank}.lora_A.weight" in adapter:
            a, b = adapter[f"{low_rank}.lora_A.weight"], adapter[f"{low_rank}.lora_B.weight"]
            assert b.abs().max() > 0
            expected = weight + ALPHA / RANK * b @ a
            torch.testing.assert_close(saved[name], expected, atol=1e-6, rtol=1e-5)
            adapted += 1
        else:  # norms; embedding and head have new rows as well
            assert torch.equal(saved[name][: len(weight)], weight), name
    assert adapted == 2 * 7
    new = len(base["lm_head.weight"])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        mean = base[name].mean(dim=0)
        assert not torch.allclose(saved[name][new], mean), "the added token's row has moved"


def test_the_saved_model_loads_plainly_and_is_the_one_that_was_evaluated(
    trained: Trained, train: Callable[..., Trained]
) -> None:
    from transformers import AutoModelForCausalLM

    directory = trained.directory / "model"
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    assert not list(directory.glob("adapter*"))
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}
    again = train(f"model.name_or_path={directory}", "adapter=none", "trainer.max_steps=1")
    assert_equal(again.result.evaluation_before, trained.result.evaluation_after)


def test_the_base_is_evaluated_before_it_is_quantised(
    trained: Trained, train: Callable[..., Trained]
) -> None:
    plain = train("adapter=lora", "trainer.max_steps=1", "evaluation.after=false")
    assert_equal(plain.result.evaluation_before, trained.result.evaluation_before)


def assert_equal(one: Evaluation | None, other: Evaluation | None) -> None:
    """One went through the model's own head, the other through the chunked one."""
    assert one and other and one.heldout and other.heldout
    assert one.heldout.loss == pytest.approx(other.heldout.loss, rel=1e-6)
    assert one.heldout.tokens == other.heldout.tokens


def test_a_resumed_run_ends_with_the_same_weights(
    train: Callable[..., Trained], trained: Trained
) -> None:
    import torch

    checkpoint = trained.directory / "checkpoints" / "checkpoint-3"
    resumed = train(f"trainer.resume_from_checkpoint={checkpoint}")
    assert resumed.losses == trained.losses[3:]
    weights = trained.weights()
    for name, weight in resumed.weights().items():
        assert torch.equal(weight, weights[name]), name


def test_two_ranks_give_the_losses_of_one(train: Callable[..., Trained], trained: Trained) -> None:
    two = train(
        "launch.nproc_per_node=2",
        "trainer.gradient_accumulation_steps=1",
        "trainer.gradient_checkpointing=true",
    )
    assert two.losses == pytest.approx(trained.losses, rel=1e-4)
    before, after = two.result.evaluation_before, two.result.evaluation_after
    assert before and after and trained.result.evaluation_after
    assert after.heldout and trained.result.evaluation_after.heldout
    assert after.heldout.loss == pytest.approx(
        trained.result.evaluation_after.heldout.loss, rel=1e-4
    )
