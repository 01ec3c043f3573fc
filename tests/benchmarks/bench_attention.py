"""(2) Attention inside each document, against a dense mask over the packed row."""

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from sft_app.training.attention import packed_attention
from sft_app.training.attention.document_bounds import documents_of_lengths, lengths_from_positions
from sft_app.training.attention.kernels import AttentionSettings, one_call_per_document
from tests.benchmarks.measuring import take_turns, write_table
from tests.benchmarks.small_llama import packed_row, small_llama

LENGTH, DOCUMENT = 4096, 300


def forward_and_backward(model: LlamaForCausalLM, row: dict[str, Any]) -> None:
    model(**row).loss.backward()


def main() -> None:
    row = packed_row(LENGTH, DOCUMENT)
    models = {"dense mask": small_llama("sdpa"), "per document": small_llama(packed_attention.NAME)}
    losses = {name: model(**row).loss.item() for name, model in models.items()}
    assert abs(losses["dense mask"] - losses["per document"]) < 1e-5, losses
    whole = take_turns(
        {name: partial(forward_and_backward, model, row) for name, model in models.items()},
        rounds=3,
    )

    lengths = lengths_from_positions(row["position_ids"])
    documents = documents_of_lengths(lengths, "cpu")
    query, key, value = (torch.randn(LENGTH, h, 64, requires_grad=True) for h in (4, 2, 2))
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (number[:, None] == number[None, :]).tril()[None, None]

    def dense() -> None:
        q, k, v = (t.transpose(0, 1)[None] for t in (query, key, value))
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).sum().backward()

    def per_document() -> None:
        one_call_per_document(query, key, value, documents, AttentionSettings()).sum().backward()

    alone = take_turns({"dense mask": dense, "per document": per_document}, rounds=3)
    rows = []
    for what, timings in (("small Llama", whole), ("attention alone", alone)):
        slow = timings["dense mask"].cpu_seconds
        for name, timing in timings.items():
            rows.append(
                {
                    "what": what,
                    "attention": name,
                    "wall s": timing.wall_seconds,
                    "CPU s": timing.cpu_seconds,
                    "speedup (CPU)": slow / timing.cpu_seconds,
                }
            )
    write_table(
        "attention",
        f"Forward and backward of one row of {LENGTH} tokens in documents of {DOCUMENT}",
        rows,
        goal="the model at least 2.5 times as fast per document as with a dense mask",
    )


if __name__ == "__main__":
    main()
