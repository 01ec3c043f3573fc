"""Run by test_context_parallel.py: in one process, then on gloo ranks.

Each rank prints one line per thing that holds. What the ranks compute on parts of rows is compared
with one process and whole rows, through transformers' own attention and loss.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.compat.python_internals import end_process
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.evaluation.token_reader import TokenReader
from sft_app.training.activation_memory.tile_layers import install_tiles
from sft_app.training.parallel.context_parallel import (
    ContextParallelGroup,
    context_parallel_attention,
    init_context_parallel_group,
    shard_for_context_parallel,
)
from sft_app.training.parallel.evaluation_split import evaluation_split
from sft_app.training.parallel.fsdp import shard
from sft_app.training.parallel.verify_context_parallel import (
    compare_shards_with_whole,
    verify_context_parallel,
)
from sft_app.training.prepare_model import PreparedModel
from sft_app.training.sft_trainer import SFTTrainer
from tests.training.random_models import build_random_model
from tests.training.training_steps import (
    Batch,
    collate,
    losses_of,
    packed_rows,
    prepared,
    trainer_of,
    with_conversation_shares,
)

CPU = torch.device("cpu")


def packed_batch() -> Batch:
    """Two thirds of the tokens of every document are supervised."""
    batch = collate(packed_rows(3))
    supervised = torch.rand(3, 24, generator=seeded()) < 0.67
    return batch | {"labels": torch.where(supervised, batch["input_ids"], -100)}


def padded_batch() -> Batch:
    """Rows of 23, 15 and 2 tokens: padded at the end, and no multiple of the ranks."""
    batch = {name: tensor[:, :23] for name, tensor in packed_batch().items()}
    lengths = torch.tensor([23, 15, 2])[:, None]
    places = torch.arange(23).expand(3, -1)
    batch["position_ids"] = torch.where(places < lengths, places, places - lengths)
    batch["attention_mask"] = (places < lengths).long()
    batch["labels"] = torch.where(places < lengths, batch["labels"], -100)
    return batch


def plain_rows() -> Batch:
    """Neither packed nor padded, and without positions."""
    batch = packed_batch()
    del batch["position_ids"]
    return batch


CASES: dict[str, tuple[str, dict[str, Any], Callable[[], Batch]]] = {
    "packed": ("llama", {}, packed_batch),
    "packed, the model's own loss": ("llama", {}, packed_batch),
    "packed, MLPs in tiles": ("llama", {}, packed_batch),
    "padded": ("llama", {}, padded_batch),
    "plain": ("llama", {}, plain_rows),
    "one key and value head": ("llama", {"num_key_value_heads": 1}, packed_batch),
    "one key and value head, plain": ("llama", {"num_key_value_heads": 1}, plain_rows),
    "sliding window": ("mistral", {}, packed_batch),
    "sliding window, padded": ("mistral", {}, padded_batch),
    "some layers with a window": ("gemma3_text", {}, packed_batch),
    "soft-capped scores": ("gemma2", {"attn_logit_softcapping": 2.0}, packed_batch),
    "soft-capped scores, plain": (
        "gemma2",
        {"attn_logit_softcapping": 2.0, "sliding_window": 64},
        plain_rows,
    ),
    "latent attention": ("deepseek_v3", {}, packed_batch),
    "position table": ("gpt2", {}, plain_rows),
    "mixture": ("mixtral", {}, packed_batch),
}
CONVERSATIONS = "conversations"
ADAPTERS = {
    "all weights": AdapterConfig(),
    CONVERSATIONS: AdapterConfig(),
    "lora": AdapterConfig(method=AdapterMethod.lora, rank=4),
}
HEADS_OF_A_THIRD = {"hidden_size": 48, "num_attention_heads": 12, "num_key_value_heads": 6}


def step(model: PreTrainedModel, batch: Batch, num_items: int) -> tuple[float, Batch]:
    """Loss and gradients of whole rows."""
    loss = model(**batch, num_items_in_batch=num_items).loss
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def step_in_shards(
    model: PreTrainedModel, batch: Batch, num_items: int, cp_group: ContextParallelGroup
) -> tuple[float, Batch]:
    """The same, summed over the ranks, each of which had a part."""
    part, documents = shard_for_context_parallel(batch, cp_group)
    with context_parallel_attention(documents, cp_group):
        loss = model(**part, num_items_in_batch=num_items).loss
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total)
    gradients = {}
    for name, parameter in model.named_parameters():
        summed = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(summed)
        gradients[name] = summed
    return total.item(), gradients


def check_gradients(cp_group: ContextParallelGroup) -> None:
    cases = dict(CASES)
    if cp_group.size == 4:  # 12 query heads and 6 of keys: neither divides the other's share
        cases = {"six key and value heads": ("llama", HEADS_OF_A_THIRD, packed_batch)}
    for case, (family, overrides, make_batch) in cases.items():
        batch = make_batch()
        num_items = int((batch["labels"][:, 1:] != -100).sum())
        eager = build_random_model(family, attention="eager", **overrides)
        expected, gradients = step(eager, batch, num_items)
        ours = prepared(build_random_model(family, **overrides)).model
        if case.endswith("own loss"):
            del ours.forward
        if case.endswith("tiles"):
            install_tiles(ours, 5)
        loss, found = step_in_shards(ours, batch, num_items, cp_group)
        assert loss == pytest.approx(expected, rel=1e-5), case
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=case)
        say(f"gradients, {case}")


def check_weighted_tokens(cp_group: ContextParallelGroup) -> None:
    batch = packed_batch() | {"loss_weights": torch.rand(3, 24, generator=seeded())}
    ours = prepared(build_random_model("llama")).model
    expected, gradients = step(ours, batch, 30)
    twin = prepared(build_random_model("llama")).model
    loss, found = step_in_shards(twin, batch, 30, cp_group)
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found["lm_head.weight"], gradients["lm_head.weight"])
    say("weighted tokens")


def check_mixed_precision(cp_group: ContextParallelGroup) -> None:
    batch, losses = packed_batch(), []
    for part in (None, cp_group):
        model = prepared(build_random_model("llama")).model
        with torch.autocast("cpu", torch.bfloat16):
            found = (
                step(model, batch, 30) if part is None else step_in_shards(model, batch, 30, part)
            )
        losses.append(found)
    (expected, gradients), (loss, in_parts) = losses
    assert loss == pytest.approx(expected, rel=1e-2)
    for name, gradient in gradients.items():
        assert in_parts[name].dtype == torch.float32
        assert (in_parts[name] - gradient).norm() < 0.05 * gradient.norm(), name
    say("mixed precision")


def check_verification(cp_group: ContextParallelGroup) -> None:
    for family in ("llama", "mistral", "gemma2", "gpt2", "mixtral"):
        model = prepared(build_random_model(family)).model
        check = compare_shards_with_whole(model, cp_group, model)
        assert check.equal and check.control > 1e-2, check.sentence()
    in_16_bits = prepared(build_random_model("llama").bfloat16()).model
    assert verify_context_parallel(in_16_bits, cp_group).equal
    mamba = build_random_model("mamba2")
    mixed = build_random_model("mixtral", output_router_logits=True)
    other_attention = build_random_model("llama", attention="sdpa")
    for model in (mamba, mixed, other_attention):
        with pytest.raises(ConfigError, match=r"cannot be trained on sequence shards .*moves? the"):
            verify_context_parallel(model, cp_group)
    say("the check on the loaded model")


def check_evaluation(cp_group: ContextParallelGroup) -> None:
    """Losses of tokens read in shards, and by one process from whole rows; both by two ranks."""
    rows = torch.randint(3, 97, (2, 23), generator=seeded())
    for family in ("llama", "mistral"):
        model = prepared(build_random_model(family)).model
        expected = TokenReader(build_random_model(family, attention="eager"), CPU).losses(rows)
        reader = TokenReader(model, CPU, evaluation_split(cp_group, 1))
        mine = reader.losses(rows)
        assert 0 < int((mine == 0).sum()) < mine.numel(), "each rank has a part"
        assert reader.split.sum(mine, CPU) == pytest.approx(expected, abs=1e-4)
    say("evaluation")


def train_eight_rows(
    model: PreparedModel, directory: Path, name: str, accumulation: int, **args: Any
) -> SFTTrainer:
    """Three steps of eight rows, in micro-batches of two."""
    rows = packed_rows(8)
    trainer = trainer_of(
        model,
        directory,
        with_conversation_shares(rows) if name == CONVERSATIONS else rows,
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        lr_scheduler_type="constant",
        **args,
    )
    trainer.train()
    return trainer


def save_reference(directory: Path) -> None:
    """In one process, and on whole rows."""
    for name, adapter in ADAPTERS.items():
        model = prepared(build_random_model("llama"), adapter)
        trainer = train_eight_rows(model, directory, name, 4)
        weights = {name: p.detach() for name, p in trainer.model.named_parameters()}
        counts = (trainer.count.tokens.total, trainer.count.tokens.supervised, trainer.count.flops)
        torch.save((losses_of(trainer), counts, weights), directory / f"{name}.pt")


def check_trainer(
    cp_group: ContextParallelGroup,
    directory: Path,
    name: str,
    *,
    sharded: bool = False,
    **args: Any,
) -> None:
    losses, counts, weights = torch.load(directory / f"{name}.pt")
    model = build_random_model("llama")
    ours = replace(prepared(model, ADAPTERS[name]), context=cp_group)
    if sharded:
        shard(ours.model, model, CPU)
        ours = replace(ours, sharded=True)
    groups = dist.get_world_size() // cp_group.size
    trainer = train_eight_rows(ours, directory / "parts", name, 4 // groups, **args)
    assert losses_of(trainer) == pytest.approx(losses, rel=1e-5)
    assert (
        trainer.count.tokens.total,
        trainer.count.tokens.supervised,
        trainer.count.flops,
    ) == counts
    for key, parameter in trainer.model.named_parameters():
        whole = parameter.full_tensor() if sharded else parameter
        torch.testing.assert_close(whole, weights[key], atol=1e-5, rtol=1e-4)
    trainer.release_training_state()
    say(f"SFTTrainer, {name}, {sharded=}, {args}")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def say(what: str) -> None:
    print(f"rank {dist.get_rank()}: {what}\n", end="", flush=True)  # in one piece


if __name__ == "__main__":
    what, directory, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "reference":
        save_reference(directory)
        sys.exit()
    dist.init_process_group("gloo")
    cp_group = init_context_parallel_group(size, CPU)
    assert cp_group is not None
    if what == "gradients":
        check_gradients(cp_group)
        check_weighted_tokens(cp_group)
        check_mixed_precision(cp_group)
        check_verification(cp_group)
        check_evaluation(cp_group)
    else:
        check_trainer(cp_group, directory, "all weights")
        check_trainer(cp_group, directory, CONVERSATIONS)
        check_trainer(cp_group, directory, "lora", gradient_checkpointing=True)
        check_trainer(cp_group, directory, "all weights", sharded=True, gradient_checkpointing=True)
    dist.destroy_process_group()
    end_process(0)
