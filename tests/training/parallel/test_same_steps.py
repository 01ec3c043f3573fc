"""Steps are those of one process, whatever shares the work: losses, norms, and what is summed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainerCallback, masking_utils

from sft_app.config.schema.app import AppConfig
from sft_app.data.batches.skip_positions import skip_positions
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.training.attention.choose_attention import choose_attention
from sft_app.training.attention.document_bounds import lengths_from_positions
from sft_app.training.metrics import token_counts
from sft_app.training.packing_plan import PackingPlan
from sft_app.training.parallel.context_parallel import init_context_parallel_group
from sft_app.training.prepare_model import prepare_model
from tests.forked_ranks import on_two_forked_ranks
from tests.newer_transformers import NEEDS_SHARDED_MODELS
from tests.training.training_steps import Batch, losses_of, packed_rows, trainer_of

CPU = torch.device("cpu")
SHARING = {
    "ddp": (),
    "fsdp": ("trainer.parallelism=fsdp",),
}
"""Ways in which two ranks share the work."""
Answer = dict[str, Any]


class Gradients(TrainerCallback):
    """Keeps what the optimizer would be given, whole, before it is rounded or taken."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_pre_optimizer_step(self, *args: Any, model: Any = None, **kwargs: Any) -> None:
        self.found.append(
            {n: whole(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        )


def whole(tensor: torch.Tensor) -> Any:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().float().numpy().copy()


def take_steps(
    config: AppConfig, rows: list[Batch], directory: Path, arguments: dict[str, Any]
) -> Answer:
    """Train as a run does; `arguments` are TrainingArguments'."""
    context = init_context_parallel_group(config.trainer.context_parallel_size, CPU)
    pretrained = load_pretrained_config(config.model)
    model = load_model(
        config.model,
        pretrained,
        plan_rope(pretrained, config.context_length, config.rope),
        on_host_of_rank_0=config.trainer.parallelism == "fsdp",
        tensor_parallel_size=config.trainer.tensor_parallel_size,
    )
    prepared = prepare_model(
        model,
        config,
        CPU,
        packing=PackingPlan(True, "test"),
        attention=choose_attention(pretrained, CPU, "auto"),
        context=context,
    )
    gradients = Gradients()
    # Not measured: half a second for each.
    with mock.patch.object(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9):
        trainer = trainer_of(prepared, directory, rows, **arguments)
    trainer.add_callback(gradients)
    trainer.train()
    history = trainer.state.log_history
    answer = {
        "losses": losses_of(trainer),
        "norms": [float(entry["grad_norm"]) for entry in history if "grad_norm" in entry],
        "gradients": gradients.found,
        "learned_tokens": trainer.count.tokens.supervised,
        "weights": {n: whole(p) for n, p in trainer.model.named_parameters()},
    }
    trainer.release_training_state()
    return answer


def take_steps_shared(
    sharing: str | None,
    config: AppConfig,
    rows: list[Batch],
    directory: Path,
    arguments: dict[str, Any],
) -> list[Answer]:
    """What each of two ranks answers that share the steps, or the one process (None)."""
    if sharing is None:
        return [take_steps(config, rows, directory, arguments)]
    return list(on_two_forked_ranks(take_steps, config, rows, directory, arguments))


def norm_of(gradients: dict[str, Any]) -> float:
    norms = [torch.from_numpy(gradient).norm() for gradient in gradients.values()]
    return torch.stack(norms).norm().item()


Compose = Callable[..., AppConfig]
RandomModel = Callable[..., PreTrainedModel]


@pytest.mark.parametrize(
    "sharing",
    [
        None,
        "ddp",
        pytest.param("fsdp", marks=NEEDS_SHARDED_MODELS),
        pytest.param("tensor", marks=NEEDS_SHARDED_MODELS),
    ],
)
def test_gradients_of_16_bit_weights_are_summed_in_float32(
    compose: Compose, random_model: RandomModel, tmp_path: Path, sharing: str | None
) -> None:
    """The same row 256 times: in bfloat16 a sum is off long before it stands still.

    Divided by a power of two, each micro-batch's gradient has the digits of the row's alone.
    """
    random_model("llama").save_pretrained(tmp_path)
    settings = (f"model.name_or_path={tmp_path}", "context_length=64", "model.dtype=bfloat16")
    rows = packed_rows(6)[5:] * 256
    once = {"max_steps": 1, "bf16": True, "optim": "sgd", "max_grad_norm": 0.0}
    copies = 2 if sharing in SHARING else 1
    whole_step = once | {
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 256 // copies,
    }  # fmt: skip
    tensor = {"tensor": ("trainer.tensor_parallel_size=2",)}
    config = compose(*settings, *(SHARING | tensor).get(sharing or "", ()))
    if sharing is None:
        answers = [take_steps(config, rows, tmp_path, whole_step)]
        one = take_steps(config, rows[:1], tmp_path, once | {"per_device_train_batch_size": 1})
    else:
        answers = on_two_forked_ranks(take_steps, config, rows, tmp_path, whole_step)
        alone = once | {"per_device_train_batch_size": 1}
        one = on_two_forked_ranks(take_steps, config, rows[:2], tmp_path, alone)[0]
    for answer in answers:
        # Not the norm that the single row logs: that is rounded to 16 bits, as its gradients are.
        assert answer["norms"] == pytest.approx([norm_of(one["gradients"][0])], rel=1e-3)
        for name, gradient in one["gradients"][0].items():
            found = torch.from_numpy(answer["gradients"][0][name])
            expected = torch.from_numpy(gradient)
            error = (found - expected).norm() / expected.norm()
            assert error < 1e-3, f"{name} is off by {error:.1e}"


@NEEDS_SHARDED_MODELS
@pytest.mark.parametrize("family", ["mamba", "zamba2"])
def test_sharded_layers_take_the_step_of_whole_ones(
    compose: Compose, small_family: Callable[[str], PreTrainedModel], tmp_path: Path, family: str
) -> None:
    """Both name layers that are in others of them: mixers in blocks, layers in hybrid ones."""
    small_family(family).save_pretrained(tmp_path)
    settings = (f"model.name_or_path={tmp_path}", "context_length=64", "rope=none")
    step = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 1e9, "per_device_train_batch_size": 1}
    one = step | {"gradient_accumulation_steps": 2}
    [whole_ones] = take_steps_shared(None, compose(*settings), packed_rows(2), tmp_path, one)
    config = compose(*settings, *SHARING["fsdp"])
    for answer in take_steps_shared("fsdp", config, packed_rows(2), tmp_path, step):
        assert answer["losses"] == pytest.approx(whole_ones["losses"], rel=1e-5)
        for name, gradient in whole_ones["gradients"][0].items():
            found = torch.from_numpy(answer["gradients"][0][name])
            torch.testing.assert_close(found, torch.from_numpy(gradient), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sharing", [None, "ddp", pytest.param("fsdp", marks=NEEDS_SHARDED_MODELS)])
def test_a_router_loss_weighs_the_same_however_the_step_is_shared(
    compose: Compose, random_model: RandomModel, tmp_path: Path, sharing: str | None
) -> None:
    """Four times the same row, in micro-batches of one: its gradient is that of the row alone."""
    model = random_model("mixtral", output_router_logits=True, router_aux_loss_coef=0.5)
    model.save_pretrained(tmp_path)
    row = packed_rows(6)[5:]
    once = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "per_device_train_batch_size": 1}
    settings = (f"model.name_or_path={tmp_path}", "context_length=64")
    [alone] = [take_steps(compose(*settings), row, tmp_path, once)]
    copies = 1 if sharing is None else 2
    shared = compose(*settings, *(SHARING[sharing] if sharing else ()))
    four = once | {"gradient_accumulation_steps": 4 // copies}
    answers = take_steps_shared(sharing, shared, row * 4, tmp_path, four)
    for answer in answers:
        assert answer["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert answer["norms"] == pytest.approx(alone["norms"], rel=1e-4)


@pytest.mark.parametrize("sharing", [None, "ddp", pytest.param("fsdp", marks=NEEDS_SHARDED_MODELS)])
def test_smoothed_labels_are_shifted_however_the_model_is_wrapped(
    compose: Compose, random_model: RandomModel, tmp_path: Path, sharing: str | None
) -> None:
    """The Trainer's own smoothing forgets to shift when `fully_shard` has renamed the class."""
    model = random_model("llama")
    model.save_pretrained(tmp_path)
    rows = packed_rows(4)
    total = torch.zeros(())
    for row in rows:
        named = {key: row[key][None] for key in ("input_ids", "position_ids")}
        predicted, wanted = model(**named).logits[0, :-1], row["labels"][1:]
        total = total + F.cross_entropy(predicted, wanted, label_smoothing=0.1, reduction="sum")
    expected = total / sum(int((row["labels"][1:] != -100).sum()) for row in rows)
    expected.backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]

    copies = 1 if sharing is None else 2
    config = compose(
        f"model.name_or_path={tmp_path}",
        "context_length=64",
        *(SHARING[sharing] if sharing else ()),
    )
    step = {
        "max_steps": 1, "label_smoothing_factor": 0.1, "max_grad_norm": 1e9,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2 // copies,
    }  # fmt: skip
    answers = take_steps_shared(sharing, config, rows, tmp_path, step)
    for answer in answers:
        assert answer["losses"] == pytest.approx([expected.item()], rel=1e-4)
        assert answer["norms"] == pytest.approx([torch.stack(norms).norm().item()], rel=1e-3)


@pytest.mark.parametrize(
    "sharing", [None, "ddp", pytest.param("fsdp", marks=NEEDS_SHARDED_MODELS), "context"]
)
def test_skipped_positions_are_drawn_alike_however_the_step_is_shared(
    compose: Compose,
    random_model: RandomModel,
    tmp_path: Path,
    sharing: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PoSE: what is drawn for a row follows from its number, and not from who computes it."""
    own = masking_utils.find_packed_sequence_indices
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", own)  # put back at the end
    model = random_model("llama", attention="sdpa")
    model.save_pretrained(tmp_path)
    rows = packed_rows(4)
    for row in rows:
        row["labels"][[9, 20]] = -100  # no document predicts the next one's first token
    expected = loss_at_skipped_positions(model, rows, target=200, seed=42)
    expected.backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]

    config = compose(
        f"model.name_or_path={tmp_path}",
        "context_length=64",
        "data.position_skipping=pose",
        "data.position_target=200",
        *(SHARING | {"context": ("trainer.context_parallel_size=2",)}).get(sharing or "", ()),
    )
    copies = 2 if sharing in SHARING else 1
    step = {
        "max_steps": 1, "max_grad_norm": 1e9, "position_target": 200, "seed": 42,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2 // copies,
    }  # fmt: skip
    answers = take_steps_shared(sharing, config, rows, tmp_path, step)
    for answer in answers:
        assert answer["losses"] == pytest.approx([expected.item()], rel=1e-5)
        assert answer["norms"] == pytest.approx([torch.stack(norms).norm().item()], rel=1e-4)


def loss_at_skipped_positions(
    model: PreTrainedModel, rows: list[Batch], *, target: int, seed: int
) -> torch.Tensor:
    """Document by document, each alone, at the positions of the first step."""
    total, count = torch.zeros(()), 0
    for number, row in enumerate(rows):
        lengths = lengths_from_positions(row["position_ids"][None])
        skipped = skip_positions(
            row["position_ids"][None], [number], [lengths], target=target, seed=seed, step=0
        )
        parts = (row["input_ids"].split(lengths), row["labels"].split(lengths))
        for ids, labels, positions in zip(*parts, skipped[0].split(lengths), strict=True):
            # Told who sees whom: transformers would take a jump for the next document.
            seen = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool).tril()
            told = {"position_ids": positions[None], "attention_mask": seen}
            logits = model(ids[None], use_cache=False, **told).logits[0]
            total = total + F.cross_entropy(logits[:-1], labels[1:], reduction="sum")
            count += int((labels[1:] != -100).sum())
    return total / count


@pytest.mark.parametrize("sharing", ["ddp", pytest.param("fsdp", marks=NEEDS_SHARDED_MODELS)])
def test_the_last_step_of_an_epoch_learns_what_is_left_of_it(
    compose: Compose, random_model: RandomModel, tmp_path: Path, sharing: str
) -> None:
    """Five rows in steps of four: on two ranks, too, the second step has one row."""
    random_model("llama").save_pretrained(tmp_path)
    rows = packed_rows(5)
    settings = (f"model.name_or_path={tmp_path}", "context_length=64")
    epoch = {"max_steps": 2, "optim": "sgd", "max_grad_norm": 0.0, "per_device_train_batch_size": 2}
    alone = take_steps(
        compose(*settings), rows, tmp_path, epoch | {"gradient_accumulation_steps": 2}
    )
    config = compose(*settings, *SHARING[sharing])
    for answer in take_steps_shared(sharing, config, rows, tmp_path, epoch):
        assert answer["learned_tokens"] == alone["learned_tokens"]
        assert answer["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert answer["norms"] == pytest.approx(alone["norms"], rel=1e-4)
