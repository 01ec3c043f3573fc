"""Small packed batches, and the trainer that tests put them through."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from sft_app.config.schema.adapter import AdapterConfig
from sft_app.config.schema.trainer import OnNonfinite
from sft_app.data.batches.datasets import CONVERSATION_SHARE, Items
from sft_app.training.attention import packed_attention
from sft_app.training.attention.choose_attention import AttentionChoice
from sft_app.training.guards.loss_spikes import SpikeRule
from sft_app.training.heldout_trainer import HeldoutMeasure
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.metrics.flops import shape_of
from sft_app.training.packing_plan import PackingPlan
from sft_app.training.peft.lora import add_adapter
from sft_app.training.prepare_model import PreparedModel
from sft_app.training.sft_trainer import SFTTrainer

Batch = dict[str, torch.Tensor]


def packed_rows(count: int) -> list[Batch]:
    """Rows of 24 tokens in documents of 9, 11 and 4, with uneven numbers of labels."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count):
        tokens = torch.randint(3, 97, (24,), generator=generator)
        labels = torch.full((24,), -100)
        labels[2 : 4 + 2 * index] = tokens[2 : 4 + 2 * index]
        positions = torch.cat([torch.arange(n) for n in (9, 11, 4)])
        rows.append({"input_ids": tokens, "labels": labels, "position_ids": positions})
    return rows


def with_conversation_shares(rows: list[Batch]) -> list[Batch]:
    """The same rows, each document a conversation; the second documents get labels too."""
    shared = []
    for row in rows:
        labels, share = row["labels"].clone(), torch.zeros(24)
        labels[12:15] = row["input_ids"][12:15]
        labels[[0, 9, 20]] = -100  # no document predicts the next one's first token
        for document in (slice(0, 9), slice(9, 20), slice(20, 24)):
            supervised = labels[document] != -100
            share[document][supervised] = 1 / supervised.sum().clamp(min=1)
        shared.append({**row, "labels": labels, CONVERSATION_SHARE: share})
    return shared


def mean_over_conversations(model: PreTrainedModel, rows: list[Batch]) -> torch.Tensor:
    """What trainer.loss_weighting=conversation promises, one document after the other."""
    means = []
    for row in rows:
        for start, stop in ((0, 9), (9, 20), (20, 24)):
            logits = model(input_ids=row["input_ids"][None, start:stop]).logits[0].log_softmax(-1)
            terms = [
                -logits[place - start - 1, row["labels"][place]]
                for place in range(start, stop)
                if row["labels"][place] != -100
            ]
            if terms:
                means.append(torch.stack(terms).mean())
    return torch.stack(means).mean()


def collate(items: list[Batch]) -> Batch:
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def prepared(
    model: PreTrainedModel,
    adapter: AdapterConfig | None = None,
    new_token_ids: Sequence[int] = (),
) -> PreparedModel:
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    loss = install_chunked_loss(model)
    trained = add_adapter(model, adapter or AdapterConfig(), seed=0, new_token_ids=new_token_ids)
    attention = AttentionChoice(packed_attention.NAME, "test")
    return PreparedModel(trained, PackingPlan(True, "test"), attention, loss, shape_of(model))


def trainer_of(
    model: PreparedModel,
    directory: Path,
    rows: Items,
    optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
    on_nonfinite: OnNonfinite = OnNonfinite.stop,
    on_loss_spike: SpikeRule | None = None,
    heldout: HeldoutMeasure | None = None,
    position_target: int | None = None,
    **args: Any,
) -> SFTTrainer:
    arguments = TrainingArguments(
        output_dir=str(directory),
        use_cpu=True,
        max_steps=args.pop("max_steps", 1),
        learning_rate=args.pop("learning_rate", 1e-2),
        logging_steps=args.pop("logging_steps", 1),
        save_strategy=args.pop("save_strategy", "no"),
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        average_tokens_across_devices=True,
        **args,
    )
    return SFTTrainer(
        prepared=model,
        args=arguments,
        data_collator=collate,
        train_dataset=rows,
        position_target=position_target,
        on_nonfinite=on_nonfinite,
        on_loss_spike=on_loss_spike,
        eval_dataset=rows if heldout is not None else None,
        heldout=heldout,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
    )


def losses_of(trainer: SFTTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
