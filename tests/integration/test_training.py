"""sft-train from end to end on a tiny model: what is left behind, and that it is right."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_app.records.result import Status, read_result
from tests.integration.trained_runs import Run, Trained, run_training
from tests.newer_transformers import NEEDS_SHARDED_MODELS
from tests.training.random_models import build_random_model


@pytest.fixture(scope="module")
def train(
    run_command: Run, tiny_model: Path, chat_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trained]:
    """train("a=b", ...) runs the real command on the tiny model and returns what it left."""
    cache = tmp_path_factory.mktemp("cache")

    def run(*overrides: str) -> Trained:
        overrides = ("trainer.warmup_steps=0", *overrides)
        work = tmp_path_factory.mktemp("run")
        return run_training(run_command, tiny_model, chat_file, *overrides, work=work, cache=cache)

    return run


@pytest.fixture(scope="module")
def trained(train: Callable[..., Trained]) -> Trained:
    return train("trainer.save_steps=3")


def test_every_file_of_a_run_is_there(trained: Trained) -> None:
    for name in (".hydra/config.yaml", "config.yaml", "plan.json", "train.log", "metrics.jsonl",
                 "tensorboard", "checkpoints/checkpoint-3", "model", "result.json",
                 "report.html"):  # fmt: skip
        assert (trained.directory / name).exists(), name
    loss = json.loads((trained.directory / "plan.json").read_text())["loss"]
    assert loss["head"] == "chunked"
    assert "CUDA" in loss["reason"]
    assert not list(trained.directory.rglob("*.bin")), "no pickles"
    assert not (trained.directory / "checkpoints" / ".partial").exists()


def test_files_and_folders_are_readable_as_umask_says(trained: Trained) -> None:
    """safetensors, for one, writes weights that only their owner may read."""
    plain = trained.directory.parent / "plain"
    plain.mkdir()
    (plain / "file").touch()
    like = {True: plain.stat().st_mode, False: (plain / "file").stat().st_mode}
    wrong = [p for p in trained.directory.rglob("*") if p.stat().st_mode != like[p.is_dir()]]
    assert not wrong


def test_the_result_says_what_happened(trained: Trained) -> None:
    result = trained.result
    assert result.status is Status.completed
    assert (result.steps, result.world_size, result.rope_method) == (6, 1, "linear")
    assert result.rope_factor == 2.0
    assert result.tokens.total == 6 * 2 * 128
    assert 0 < result.tokens.supervised < result.tokens.total - result.tokens.padding
    assert set(result.seconds) >= {"plan", "data", "load", "evaluate_before", "train", "total"}


def test_every_logged_step_says_what_was_done_and_what_is_left(trained: Trained) -> None:
    lines = [json.loads(text) for text in (trained.directory / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert {
            "loss", "learning_rate", "grad_norm", "tokens_per_second",
            "supervised_tokens_per_second", "padding_tokens_per_second", "mfu_of_measured_matmul",
            "peak_memory_bytes",
        } <= line.keys()  # fmt: skip
        share = line["padding_tokens_per_second"] / line["tokens_per_second"]
        assert share < 1, "padding is the smaller part of packed rows"
    left = [line["seconds_left"] for line in lines]
    assert left[0] > left[-1] == 0
    assert lines[-1]["flops"] == pytest.approx(6 * lines[0]["flops"], rel=0.5)


def test_training_lowers_both_losses(trained: Trained) -> None:
    before, after = trained.result.evaluation_before, trained.result.evaluation_after
    assert before and after and before.heldout and after.heldout
    assert trained.losses[-1] < trained.losses[0]
    assert after.heldout.loss < before.heldout.loss
    assert math.isclose(before.heldout.loss, math.log(before.heldout.perplexity))


def test_the_screen_says_what_and_what_next(trained: Trained) -> None:
    for words in ("model  ", "run  ", "step 6/6", "held-out loss", "Next:"):
        assert words in trained.output


def test_the_saved_model_loads_with_plain_transformers(trained: Trained) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained.directory / "model")
    tokenizer = AutoTokenizer.from_pretrained(trained.directory / "model")
    assert model.config.use_cache is True
    assert model.config.rope_parameters["factor"] == 2.0
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "spell ab"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()


def test_a_resumed_run_ends_with_the_same_weights(
    train: Callable[..., Trained], trained: Trained
) -> None:
    checkpoint = trained.directory / "checkpoints" / "checkpoint-3"
    resumed = train("trainer.save_steps=3", f"trainer.resume_from_checkpoint={checkpoint}")
    assert resumed.result.resumed_from == str(checkpoint)
    assert resumed.losses == trained.losses[3:]
    assert resumed.result.tokens == trained.result.tokens, "those before the resume are counted"
    weights = "model/model.safetensors"
    assert (resumed.directory / weights).read_bytes() == (trained.directory / weights).read_bytes()


@pytest.mark.slow
def test_a_checkpoint_of_16_bits_is_trained_in_32_and_saved_in_16(
    train: Callable[..., Trained], tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(tiny_model, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(tiny_model).bfloat16().save_pretrained(tmp_path / "half")
    run = train(f"model.name_or_path={tmp_path / 'half'}")
    precision = json.loads((run.directory / "plan.json").read_text())["precision"]
    assert (precision["parameters"], precision["saved"]) == ("float32", "bfloat16")
    saved = AutoModelForCausalLM.from_pretrained(run.directory / "model")
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.bfloat16}
    again = train(f"model.name_or_path={run.directory / 'model'}", "trainer.max_steps=1")
    assert again.result.evaluation_before == run.result.evaluation_after, "it is what was measured"


@pytest.mark.slow
def test_sharded_ranks_compute_in_16_bits_and_keep_32(
    train: Callable[..., Trained], trained: Trained
) -> None:
    two = train(
        "launch.nproc_per_node=2",
        "trainer.parallelism=fsdp",
        "trainer.gradient_accumulation_steps=1",
        "trainer.bf16=true",
    )
    assert two.losses != trained.losses
    assert two.losses == pytest.approx(trained.losses, rel=2e-2)
    precision = json.loads((two.directory / "plan.json").read_text())["precision"]
    assert (precision["compute"], precision["saved"]) == ("bfloat16", "float32")


def test_two_ranks_give_the_losses_of_one(train: Callable[..., Trained], trained: Trained) -> None:
    two = train(
        "launch.nproc_per_node=2",
        "trainer.gradient_accumulation_steps=1",
        "trainer.gradient_checkpointing=true",
    )
    assert two.result.world_size == 2
    assert two.losses == pytest.approx(trained.losses, rel=1e-4)
    assert two.result.tokens == trained.result.tokens
    assert two.result.evaluation_before and trained.result.evaluation_before
    assert two.result.evaluation_before.heldout == trained.result.evaluation_before.heldout


def weights_of(run: Trained) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run.directory / "model" / "model.safetensors")


def assert_same_weights(run: Trained, other: Trained) -> None:
    import torch

    torch.testing.assert_close(weights_of(run), weights_of(other), atol=1e-5, rtol=1e-4)
    config = json.loads((run.directory / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


@NEEDS_SHARDED_MODELS
def test_two_sharded_ranks_give_the_losses_and_the_model_of_one(
    train: Callable[..., Trained], trained: Trained
) -> None:
    sharded = train(
        "launch.nproc_per_node=2",
        "trainer.gradient_accumulation_steps=1",
        "trainer.parallelism=fsdp",
        "evaluation.max_examples=5",  # one rank has more of them than the other
        "trainer.eval_strategy=steps",
        "trainer.eval_steps=4",
    )
    assert sharded.losses == pytest.approx(trained.losses, rel=1e-4)
    assert sharded.result.evaluation_after and sharded.result.evaluation_after.heldout
    assert sharded.result.evaluation_after.heldout.examples == 5
    _, after_the_last_step = sharded.heldout_losses
    assert after_the_last_step == sharded.result.evaluation_after.heldout.loss
    assert_same_weights(sharded, trained)


@pytest.mark.slow
def test_what_is_saved_of_sharded_ranks_is_the_step_with_the_lowest_held_out_loss(
    train: Callable[..., Trained],
) -> None:
    """At this learning rate the loss soon rises again, so that the last step is not the best."""
    run = train(
        "launch.nproc_per_node=2",
        "trainer.gradient_accumulation_steps=1",
        "trainer.parallelism=fsdp",
        "trainer.learning_rate=0.3",
        "trainer.lr_scheduler_type=constant",
        "trainer.max_steps=20",
        "trainer.eval_strategy=steps",
        "trainer.eval_steps=1",
        "trainer.load_best_model_at_end=true",
        "trainer.early_stopping_patience=3",
        "trainer.save_total_limit=1",
    )
    losses, result = run.heldout_losses, run.result
    best = losses.index(min(losses)) + 1
    assert result.stopped_early and result.steps == len(losses) == best + 3 < 20
    assert (result.best_step, result.best_heldout_loss) == (best, min(losses))
    assert result.weights_of_step == best
    assert result.evaluation_after and result.evaluation_after.heldout
    assert result.evaluation_after.heldout.loss == pytest.approx(min(losses), rel=1e-6)
    kept = sorted(path.name for path in (run.directory / "checkpoints").glob("checkpoint-*"))
    assert kept == sorted({f"checkpoint-{best}", f"checkpoint-{result.steps}"})


@pytest.mark.slow
def test_two_parts_of_each_row_give_the_losses_and_the_model_of_one(
    train: Callable[..., Trained], trained: Trained
) -> None:
    parts = train(
        "launch.nproc_per_node=2",
        "trainer.context_parallel_size=2",
        "trainer.gradient_checkpointing=true",
        "trainer.eval_strategy=epoch",
    )
    assert parts.result.evaluation_after and parts.result.evaluation_after.heldout
    assert parts.heldout_losses == [parts.result.evaluation_after.heldout.loss]
    assert parts.losses == pytest.approx(trained.losses, rel=1e-4)
    assert parts.result.tokens == trained.result.tokens
    assert parts.result.evaluation_before and trained.result.evaluation_before
    assert parts.result.evaluation_before.heldout == trained.result.evaluation_before.heldout
    assert_same_weights(parts, trained)
    log = (parts.directory / "train.log").read_text()
    assert "context         each row in 2 sequence shards of 64 tokens" in log
    assert "6 steps of 2 rows (1 per device x 2 accumulated x 1 group of 2 processes)" in log
    plan, whole = (
        json.loads((run.directory / "plan.json").read_text()) for run in (parts, trained)
    )
    assert (plan["context_parallel_size"], whole["context_parallel_size"]) == (2, 1)
    assert plan["memory"]["activations"] < whole["memory"]["activations"]


@pytest.mark.slow
def test_unpacked_rows_in_parts_resume_where_they_were(train: Callable[..., Trained]) -> None:
    settings = (
        "data.packing=none",
        "trainer.per_device_train_batch_size=3",
        "trainer.num_train_epochs=2",
        "trainer.max_steps=-1",
        "trainer.save_steps=12",
    )
    whole = train(*settings)
    parts = train(*settings, "launch.nproc_per_node=2", "trainer.context_parallel_size=2")
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert parts.result.steps == whole.result.steps > 12
    assert parts.result.tokens == whole.result.tokens
    assert_same_weights(parts, whole)
    resumed = train(
        *settings,
        "launch.nproc_per_node=2",
        "trainer.context_parallel_size=2",
        f"trainer.resume_from_checkpoint={parts.directory / 'checkpoints' / 'checkpoint-12'}",
    )
    assert resumed.losses == parts.losses[12:]
    assert_same_weights(resumed, parts)


@pytest.mark.slow
def test_parts_of_rows_go_with_sharded_weights_and_an_adapter(
    train: Callable[..., Trained],
) -> None:
    adapter = ("adapter=lora", "adapter.rank=4", "tokenizer.add_tokens=[spell]")
    whole = train(*adapter)
    parts = train(
        *adapter,
        "launch.nproc_per_node=2",
        "trainer.context_parallel_size=2",
        "trainer.parallelism=fsdp",
        "trainer.gradient_checkpointing=true",
    )
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert_same_weights(parts, whole)


@pytest.mark.slow
def test_two_parts_of_each_matrix_give_the_losses_and_the_model_of_one(
    train: Callable[..., Trained], trained: Trained
) -> None:
    settings = ("launch.nproc_per_node=2", "trainer.tensor_parallel_size=2", "trainer.save_steps=3")
    lengths = ("evaluation.lengths=[16, 32]", "evaluation.tasks=[]")
    cut = train(*settings, *lengths, "trainer.gradient_checkpointing=true")
    assert cut.losses == pytest.approx(trained.losses, rel=1e-4)
    assert cut.result.tokens == trained.result.tokens
    assert cut.result.num_parameters == trained.result.num_parameters
    whole = train(*lengths)
    for when in ("evaluation_before", "evaluation_after"):
        ours, theirs = getattr(cut.result, when), getattr(whole.result, when)
        assert ours.heldout.loss == pytest.approx(theirs.heldout.loss, rel=1e-5)
        assert ours.heldout.tokens == theirs.heldout.tokens
        assert ours.by_length["32"].loss == pytest.approx(theirs.by_length["32"].loss, rel=1e-5)
    assert_same_weights(cut, trained)
    assert "distributed" not in (cut.directory / "model" / "config.json").read_text()
    assert json.loads((cut.directory / "plan.json").read_text())["tensor_parallel_size"] == 2

    checkpoint = cut.directory / "checkpoints" / "checkpoint-3"
    assert not (checkpoint / "model.safetensors").exists(), "the weights are in the shards"
    resumed = train(*settings, f"trainer.resume_from_checkpoint={checkpoint}")
    assert resumed.losses == pytest.approx(cut.losses[3:], rel=1e-6)
    assert_same_weights(resumed, cut)


@pytest.mark.slow
def test_a_matrix_that_new_tokens_would_lengthen_is_not_cut(
    run_command: Run, tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    answer = run_command(
        "sft-plan",
        f"model.name_or_path={tiny_model}",
        f"data.train={chat_file}",
        "context_length=128",
        "trainer.tensor_parallel_size=2",
        "tokenizer.add_tokens=[spell]",
        cwd=tmp_path,
    )
    assert answer.returncode != 0
    assert "after the embedding was sharded" in answer.stderr


def test_what_cannot_be_trained_on_parts_is_said_before_weights_are_loaded(
    run_command: Run, tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    answer = run_command(
        "sft-train",
        f"model.name_or_path={tiny_model}",
        f"data.train={chat_file}",
        "context_length=128",
        "launch.device=cpu",
        "launch.nproc_per_node=3",
        "trainer.context_parallel_size=3",
        "hydra.run.dir=run",
        cwd=tmp_path,
    )
    assert answer.returncode == 1
    assert "it has 4 attention heads, which 3 ranks cannot share evenly" in answer.stderr
    assert "load" not in read_result(tmp_path / "run").seconds


@pytest.mark.slow
def test_a_sharded_run_resumes_where_it_was(train: Callable[..., Trained]) -> None:
    settings = ("launch.nproc_per_node=2", "trainer.parallelism=fsdp", "trainer.save_steps=3")
    whole = train(*settings)
    checkpoint = whole.directory / "checkpoints" / "checkpoint-3"
    assert not (checkpoint / "model.safetensors").exists(), "the weights are in the shards"
    resumed = train(*settings, f"trainer.resume_from_checkpoint={checkpoint}")
    assert resumed.losses == whole.losses[3:]
    assert_same_weights(resumed, whole)


@pytest.mark.slow
def test_an_adapter_on_a_sharded_model_is_the_adapter_on_a_whole_one(
    train: Callable[..., Trained],
) -> None:
    settings = (
        "launch.nproc_per_node=2",
        "adapter=lora",
        "adapter.rank=4",
        "tokenizer.add_tokens=[spell]",
    )
    whole = train(*settings)
    sharded = train(*settings, "trainer.parallelism=fsdp", "trainer.gradient_checkpointing=true")
    assert sharded.losses == pytest.approx(whole.losses, rel=1e-4)
    assert_same_weights(sharded, whole)


COMPILED = {
    "ddp": ["launch.nproc_per_node=2"],
    "fsdp": [
        "launch.nproc_per_node=2",
        "trainer.parallelism=fsdp",
        "trainer.gradient_checkpointing=true",
    ],
    "unpacked": ["data.packing=none"],
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", COMPILED.values(), ids=COMPILED)
def test_compiled_layers_give_the_losses_and_the_model_of_plain_ones(
    train: Callable[..., Trained], settings: list[str]
) -> None:
    plain = train(*settings)
    compiled = train(*settings, "trainer.torch_compile=true")
    assert "compile         " in (compiled.directory / "train.log").read_text()
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    assert compiled.result.evaluation_before == plain.result.evaluation_before
    assert_same_weights(compiled, plain)


@pytest.mark.slow
def test_without_packing_batches_hold_examples_of_like_length(
    train: Callable[..., Trained], trained: Trained
) -> None:
    batch = ("trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=1")
    unpacked = train("data.packing=none", *batch)
    tokens = unpacked.result.tokens
    assert unpacked.losses[-1] < unpacked.losses[0]
    assert tokens.padding < 0.1 * tokens.total, "in random order it would be 0.22 to 0.36"
    assert unpacked.result.evaluation_before == trained.result.evaluation_before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "packed"), [("mamba", True), ("opt", True), ("openai-gpt", False)]
)
def test_the_default_command_trains_families_that_know_no_documents(
    train: Callable[..., Trained], tiny_model: Path, tmp_path: Path, family: str, packed: bool
) -> None:
    """Packed where documents are kept apart, else in batches of similar length, and said so."""
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (tmp_path / name).unlink(missing_ok=True)
    words = json.loads((tmp_path / "tokenizer.json").read_text())
    size = len(words["model"]["vocab"]) + len(words["added_tokens"])
    build_random_model(family, vocab_size=size).save_pretrained(tmp_path)
    run = train(f"model.name_or_path={tmp_path}", "trainer.max_steps=2")
    plan = json.loads((run.directory / "plan.json").read_text())
    assert plan["packing"]["packed"] is plan["data"]["packing"]["packed"] is packed
    assert ("lets documents see each other" in run.output) is not packed


@pytest.mark.slow
def test_a_rotation_is_dropped_and_the_result_is_tuned_again(train: Callable[..., Trained]) -> None:
    first = train("rope=drope", "trainer.max_steps=2", "evaluation.verify_saved=true")
    saved = json.loads((first.directory / "model" / "config.json").read_text())
    assert (saved["model_type"], set(saved["no_rope_layers"])) == ("smollm3", {0})
    assert first.result.rope_method == "drope"
    verdict = first.result.verification
    assert verdict is not None and verdict.passed, verdict
    again = train(f"model.name_or_path={first.directory / 'model'}", "trainer.max_steps=1")
    before, after = again.result.evaluation_before, first.result.evaluation_after
    assert before and after and before.heldout == after.heldout, "it is what was saved"
