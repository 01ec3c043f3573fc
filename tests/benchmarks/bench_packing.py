"""(1) Packed rows against padded ones, on the lengths of real ShareGPT conversations."""

import random
from functools import partial
from typing import Any

import torch

from sft_app.config.schema.data import DataConfig, OnBadRecord, Packing
from sft_app.data.batches.pack import best_fit_decreasing
from sft_app.training.attention import packed_attention
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.benchmarks.bench_data import SHAREGPT, prepared, train_tokenizer
from tests.benchmarks.measuring import take_turns, write_table
from tests.benchmarks.small_llama import VOCABULARY, small_llama

LENGTH, ROWS, BATCH, SUPERVISED = 2048, 4, 4, 0.6
HIDDEN, LAYERS = 512, 4
"""With a fifth of all parameters in the head, as in small models that people train (SmolLM2-135M:
0.21, Llama 3.2 1B: 0.21). Padding never reaches our head: a larger share would help it."""
Batch = dict[str, torch.Tensor]


def main() -> None:
    documents = some_documents(real_lengths())
    real = sum(len(document["input_ids"]) for document in documents)
    app = small_llama(packed_attention.NAME, hidden=HIDDEN, layers=LAYERS)
    install_chunked_loss(app)
    plain = small_llama("sdpa", hidden=HIDDEN, layers=LAYERS)
    groups = [documents[at : at + BATCH] for at in range(0, len(documents), BATCH)]
    variants: dict[str, tuple[Any, list[Batch]]] = {
        "packed": (app, packed_rows(documents)),
        "padded to the longest of 4": (app, [padded(group) for group in groups]),
        "padded to the maximum": (app, [padded([d], LENGTH) for d in documents]),
        "padded to the maximum, transformers' attention and loss": (
            plain,
            [padded([d], LENGTH) for d in documents],
        ),
    }
    losses: dict[str, float] = {}

    def step(name: str) -> None:
        model, rows = variants[name]
        losses[name] = total_loss(model, rows)

    timings = take_turns({name: partial(step, name) for name in variants}, rounds=2)
    assert max(losses.values()) - min(losses.values()) < 1e-4 * losses["packed"], losses
    packed = timings["packed"].cpu_seconds
    table = []
    for name, (_, rows) in variants.items():
        share = real / sum(row["input_ids"].numel() for row in rows)
        times = timings[name].cpu_seconds / packed
        table.append(
            {
                "rows": name,
                "real tokens": f"{share:.1%}",
                "wall s": timings[name].wall_seconds,
                "CPU s": timings[name].cpu_seconds,
                "time of packed (CPU)": times,
                "of the inverse share": times * share,
            }
        )
    write_table(
        "packing",
        f"Forward and backward of {len(documents)} ShareGPT-long documents, {real:,} tokens, "
        f"context {LENGTH}",
        table,
        goal="padding to the maximum costs at least 0.90 of the inverse share of real tokens",
    )


def real_lengths() -> list[int]:
    """Tokens of the conversations as they are trained on at this context length."""
    config = DataConfig(train=SHAREGPT, on_bad_record=OnBadRecord.skip, packing=Packing.none)
    config.max_examples = 1500
    return list(prepared(config, train_tokenizer(), LENGTH).train.lengths)


def some_documents(lengths: list[int]) -> list[Batch]:
    """The documents of a few of the rows into which all would be packed."""
    rows = best_fit_decreasing(lengths, LENGTH)
    chosen = random.Random(0).sample(rows, ROWS)
    generator = torch.Generator().manual_seed(0)
    documents = []
    for row in chosen:
        for index in row:
            tokens = torch.randint(VOCABULARY, (lengths[index],), generator=generator)
            kept = torch.rand(len(tokens), generator=generator) < SUPERVISED
            kept[0] = False  # the first token has nothing before it
            documents.append({"input_ids": tokens, "labels": torch.where(kept, tokens, -100)})
    return documents


def packed_rows(documents: list[Batch]) -> list[Batch]:
    lengths = [len(document["input_ids"]) for document in documents]
    rows = []
    for row in best_fit_decreasing(lengths, LENGTH):
        padding = LENGTH - sum(lengths[i] for i in row)
        parts = [torch.arange(lengths[i]) for i in row] + [torch.arange(padding)]
        ids = [documents[i]["input_ids"] for i in row] + [torch.zeros(padding, dtype=torch.long)]
        labels = [documents[i]["labels"] for i in row] + [torch.full((padding,), -100)]
        rows.append(
            {
                "input_ids": torch.cat(ids)[None],
                "labels": torch.cat(labels)[None],
                "position_ids": torch.cat(parts)[None],
            }
        )
    return rows


def padded(documents: list[Batch], length: int | None = None) -> Batch:
    longest = length or max(len(document["input_ids"]) for document in documents)
    shape = (len(documents), longest)
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, -100),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
    }
    for number, document in enumerate(documents):
        end = len(document["input_ids"])
        batch["input_ids"][number, :end] = document["input_ids"]
        batch["labels"][number, :end] = document["labels"]
        batch["attention_mask"][number, :end] = 1
    return batch


def total_loss(model: Any, rows: list[Batch]) -> float:
    """Forward and backward of all rows; the sum of their tokens' losses."""
    total = 0.0
    for row in rows:
        loss = model(**row, num_items_in_batch=1).loss
        loss.backward()
        total += loss.item()
    model.zero_grad()
    return total


if __name__ == "__main__":
    main()
