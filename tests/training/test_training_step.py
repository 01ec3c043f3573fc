"""One optimizer step of SFTTrainer: the same whatever the batch is cut into; counted; adapted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.config.schema.trainer import TrainerConfig
from sft_app.data.batches.datasets import ExampleDataset
from sft_app.training.arguments import checkpointing_arguments
from sft_app.training.attention import packed_attention
from sft_app.training.attention.known_batch import KNOWN
from sft_app.training.loss import loss_of_logits
from sft_app.training.optim.muon import muon_for
from sft_app.training.peft.lora import add_adapter, merge_adapter
from sft_app.training.sft_trainer import SFTTrainer
from tests.training.training_steps import (
    Batch,
    collate,
    losses_of,
    mean_over_conversations,
    packed_rows,
    prepared,
    trainer_of,
    with_conversation_shares,
)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_a_step_is_the_same_however_its_rows_are_cut(
    random_model, tmp_path, batch_size, accumulation
):
    model = random_model("llama")
    rows = packed_rows(8)
    num_items = sum(int((row["labels"] != -100).sum()) for row in rows)
    own = random_model("llama")
    own.set_attn_implementation("sdpa")
    expected = own(**collate(rows), num_items_in_batch=num_items).loss
    expected.backward()

    trainer = trainer_of(
        prepared(model),
        tmp_path,
        rows,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        max_grad_norm=0.0,
    )
    trainer.train()

    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(expected.item(), abs=1e-5)
    for ours, theirs in zip(model.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 1e-2 * theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_class_whose_own_loss_ignores_the_steps_tokens_trains_the_same(random_model, tmp_path):
    """Gemma-4, Qwen3.5 with towers and others: accepts_loss_kwargs is False."""
    weights = []
    for accepts in (True, False):
        model = random_model("llama")
        model.accepts_loss_kwargs = accepts
        trainer = trainer_of(
            prepared(model),
            tmp_path,
            packed_rows(8),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=8,
            optim="sgd",
            max_grad_norm=0.0,
        )
        trainer.train()
        weights.append([p.detach().clone() for p in model.parameters()])
    for ours, theirs in zip(*weights, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (1, 8)])
def test_conversations_count_the_same_however_long_and_wherever_they_stand(
    random_model, tmp_path, batch_size, accumulation
):
    rows = with_conversation_shares(packed_rows(8))
    own = random_model("llama", attention="sdpa")
    expected = mean_over_conversations(own, rows)
    expected.backward()

    model = random_model("llama")
    trainer = trainer_of(
        prepared(model),
        tmp_path,
        rows,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        max_grad_norm=0.0,
    )
    trainer.train()

    assert losses_of(trainer) == pytest.approx([expected.item()], abs=1e-5)
    for ours, theirs in zip(model.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 1e-2 * theirs.grad, atol=1e-5, rtol=1e-4)


def test_what_is_logged_counts_tokens_and_flops(random_model, tmp_path):
    rows = packed_rows(4)
    trainer = trainer_of(
        prepared(random_model("llama")), tmp_path, rows, per_device_train_batch_size=4
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["total_tokens"] == logged["non_padding_tokens"] == 4 * 24
    assert logged["supervised_tokens"] == 2 + 4 + 6 + 8
    assert logged["mfu_of_measured_matmul"] > 0
    assert "mfu" not in logged  # a CPU has no datasheet figure
    assert logged["peak_memory_bytes"] > 0
    shape = trainer.prepared.shape
    attention = 6 * 2 * 32 * 4 * (9**2 + 11**2 + 4**2)
    assert trainer.count.flops == shape.body_factor * 96 + shape.head_factor * 20 + attention


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_trains_the_adapter_alone_and_merges_into_the_plain_model(
    random_model, tmp_path, checkpointing
):
    model = random_model("llama")
    before = {name: p.clone() for name, p in model.named_parameters()}
    rows = packed_rows(4)
    lora = prepared(model, AdapterConfig(method=AdapterMethod.lora, rank=4))
    trainer_of(
        lora,
        tmp_path,
        rows,
        max_steps=3,
        per_device_train_batch_size=4,
        gradient_checkpointing=checkpointing,
    ).train()
    model.eval()
    with torch.no_grad():
        adapted = model(rows[0]["input_ids"][None]).logits

    merged = merge_adapter(lora.model)

    assert type(merged).__name__ == "LlamaForCausalLM"
    assert merged.state_dict().keys() == before.keys()
    assert torch.equal(merged.lm_head.weight, before["lm_head.weight"])
    changed = merged.model.layers[0].mlp.up_proj.weight
    assert not torch.equal(changed, before["model.layers.0.mlp.up_proj.weight"])
    torch.testing.assert_close(
        merged(rows[0]["input_ids"][None]).logits, adapted, atol=1e-4, rtol=1e-4
    )


def test_an_adapter_for_layers_that_are_not_there_is_a_config_error(random_model):
    adapter = AdapterConfig(method=AdapterMethod.lora, target_modules=["no_such_layer"])
    with pytest.raises(ConfigError, match=r"adapter.target_modules=\['no_such_layer'\]"):
        add_adapter(random_model("llama"), adapter, seed=0)


def test_what_is_saved_names_no_attention_of_ours(random_model, tmp_path):
    model: Any = prepared(random_model("llama")).model
    model.save_pretrained(tmp_path)
    assert packed_attention.NAME not in (tmp_path / "config.json").read_text()


def test_weighted_tokens_need_a_loss_of_ours(random_model, tmp_path, monkeypatch):
    """It is the model's own where nobody says what its router's loss weighs."""
    monkeypatch.setattr(loss_of_logits, "ROUTER_WEIGHTS", ())
    model = prepared(random_model("mixtral", output_router_logits=True))
    rows = [{**row, "loss_weights": torch.ones(24)} for row in packed_rows(2)]
    with pytest.raises(ConfigError, match="the data weights its tokens"):
        trainer_of(model, tmp_path, rows, per_device_train_batch_size=2).train()


def test_weighted_tokens_train_beside_a_router_loss(random_model, tmp_path):
    losses = []
    for weight in (1.0, 2.0):
        model = prepared(random_model("mixtral", output_router_logits=True))
        rows = [{**row, "loss_weights": torch.full((24,), weight)} for row in packed_rows(2)]
        trainer = trainer_of(model, tmp_path, rows, per_device_train_batch_size=2)
        trainer.train()
        losses.append(losses_of(trainer)[0])
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_trains_the_rows_of_added_tokens_through_the_chunked_loss(
    random_model, tmp_path, tied
):
    model = random_model("llama", tie_word_embeddings=tied)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    new = [95, 96]
    rows = packed_rows(4)
    for row in rows:  # each is read, and each is to be predicted
        row["input_ids"][3:5] = row["labels"][3:5] = torch.tensor(new)
    lora = prepared(model, AdapterConfig(method=AdapterMethod.lora, rank=4), new_token_ids=new)
    packed = lora.model(**collate(rows), num_items_in_batch=8)  # as the Trainer calls it
    assert packed.logits is None, "in chunks"
    dense = type(model).forward(model, **collate(rows), num_items_in_batch=8)
    torch.testing.assert_close(packed.loss, dense.loss)

    trainer_of(lora, tmp_path, rows, max_steps=3, per_device_train_batch_size=4).train()
    with torch.no_grad():
        trained = model.eval()(rows[0]["input_ids"][None]).logits
    merged = merge_adapter(lora.model)

    layers = [merged.get_input_embeddings(), merged.get_output_embeddings()]
    assert (layers[0].weight is layers[1].weight) == tied
    for layer, name in zip(layers, ("model.embed_tokens.weight", "lm_head.weight"), strict=True):
        old = before.get(name, before["model.embed_tokens.weight"])
        assert torch.equal(layer.weight[:95], old[:95])
        assert (layer.weight[95:] != old[95:]).any(dim=1).all()
    torch.testing.assert_close(
        merged(rows[0]["input_ids"][None]).logits, trained, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("settings", [{}, {"every_n_layers": 2}, {"use_reentrant": True}])
def test_checkpointing_changes_no_loss(random_model, tmp_path, settings):
    def losses(**args: Any) -> list[float]:
        model = prepared(random_model("llama", num_hidden_layers=4))
        trainer = trainer_of(
            model, tmp_path, packed_rows(8), max_steps=3, per_device_train_batch_size=4, **args
        )
        trainer.train()
        return losses_of(trainer)

    checkpointed = checkpointing_arguments(
        TrainerConfig(gradient_checkpointing=True, gradient_checkpointing_kwargs=settings)
    )
    assert losses(**checkpointed) == pytest.approx(losses(), rel=1e-5)


@pytest.mark.parametrize(
    "optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"]
)
def test_every_optimizer_without_a_package_of_its_own_learns(random_model, tmp_path, optim):
    trainer = trainer_of(
        prepared(random_model("llama")),
        tmp_path,
        packed_rows(4),
        max_steps=8,
        learning_rate=1e-1 if optim == "sgd" else 3e-3,
        per_device_train_batch_size=4,
        optim=optim,
    )
    trainer.train()
    losses = losses_of(trainer)
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.slow  # where bitsandbytes is installed
@pytest.mark.parametrize("optim", ["adamw_8bit", "ademamix_8bit", "lion_8bit", "rmsprop_bnb_8bit"])
def test_an_8_bit_optimizer_learns_and_resumes_bit_for_bit(random_model, tmp_path, optim):
    pytest.importorskip("bitsandbytes")

    def trainer(directory: Path, **args: Any) -> SFTTrainer:
        model = prepared(random_model("llama", hidden_size=64, intermediate_size=128))
        return trainer_of(
            model, directory, packed_rows(8), per_device_train_batch_size=4, learning_rate=3e-3,
            max_steps=6, optim=optim, **args,
        )  # fmt: skip

    whole = trainer(tmp_path / "whole", save_strategy="steps", save_steps=3)
    whole.train()
    losses = losses_of(whole)
    assert losses[-1] < 0.97 * losses[0]
    state = whole.optimizer.optimizer.state[whole.model.model.layers[0].mlp.up_proj.weight]
    assert state["state1"].dtype == torch.uint8

    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_muon_learns_and_resumes_bit_for_bit(random_model, tmp_path):
    settings = TrainerConfig(optim="muon", learning_rate=3e-3)

    def trainer(directory: Path, **args: Any) -> SFTTrainer:
        model = prepared(random_model("llama"))
        return trainer_of(
            model, directory, packed_rows(8), per_device_train_batch_size=4, learning_rate=3e-3,
            max_steps=6, optimizer_cls_and_kwargs=muon_for(model.model, settings), **args,
        )  # fmt: skip

    whole = trainer(tmp_path / "whole", save_strategy="steps", save_steps=3)
    whole.train()
    hidden = {p for group in whole.optimizer.optimizer.muon.param_groups for p in group["params"]}
    names = {name for name, p in whole.model.named_parameters() if p in hidden}
    assert "model.layers.0.mlp.up_proj.weight" in names
    assert not {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} & names
    losses = losses_of(whole)
    assert losses[-1] < 0.97 * losses[0]

    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Examples(ExampleDataset):
    """Unpacked examples, already tensors, of many lengths."""

    def __init__(self, rows: list[Batch]) -> None:
        self.rows = rows
        self.lengths = [100 - index for index in range(len(rows))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.rows[index]

    def records_of(self, index: int) -> list[str]:
        return [str(index)]


@pytest.mark.parametrize("strategy", ["random", "sequential"])
def test_examples_come_in_the_order_that_is_asked_for(
    random_model, tmp_path: Path, strategy: str
) -> None:
    trainer = trainer_of(
        prepared(random_model("llama")), tmp_path, Examples(packed_rows(8)),
        train_sampling_strategy=strategy, per_device_train_batch_size=1,
    )  # fmt: skip
    order = [int(batch[KNOWN].items[0]) for batch in trainer.get_train_dataloader()]
    assert sorted(order) == list(range(8))
    assert (order == list(range(8))) is (strategy == "sequential")
