"""(7) The memory estimate against measured peaks of a training step, over a grid, on a CPU.

Peaks are what torch's allocator has given out at a time (torch.profiler), for tiny Llamas: sizes,
lengths, precisions, checkpointing, tiles, LoRA. Goal: median error <= 10%, worst <= 20%.
"""

import gc
import itertools
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.config.schema.trainer import TrainerConfig
from sft_app.training.activation_memory.tile_layers import install_tiles
from sft_app.training.attention import packed_attention
from sft_app.training.estimates.memory_estimate import estimate_memory
from sft_app.training.loss.chunked_cross_entropy import chunk_bytes
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.peft.lora import put_adapter

SIZES = {
    "wide": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3},
    "deep, grouped heads": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8,
        "num_key_value_heads": 2,
    },
}  # fmt: skip
LENGTHS = (128, 512)
PRECISIONS = {
    "float32": (torch.float32, torch.float32),
    "mixed": (torch.float32, torch.bfloat16),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
}
CPU = torch.device("cpu")


TILE = 64
"""Tokens of a tile, where MLPs are computed in tiles."""
RECOMPUTED = {"no": (False, False), "layers": (True, False), "layers, MLPs in tiles": (True, True)}
"""Checkpointing, tiles."""


def peak(
    config: LlamaConfig, length: int, precision: str, checkpointing: bool, tiled: bool, lora: bool
) -> int:
    """Return the bytes at the peak of a second step, everything that a run holds included."""
    parameters, compute = PRECISIONS[precision]
    gc.collect()  # what is freed meanwhile would count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        packed_attention.register()
        model = AutoModelForCausalLM.from_config(
            config, dtype=parameters, attn_implementation=packed_attention.NAME
        )
        trained = put_adapter(model, adapter(lora))
        install_chunked_loss(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        if tiled:
            install_tiles(model, TILE)
        model.train()
        parameters_of = [p for p in trained.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters_of, fused=True)
        tokens = torch.randint(3, config.vocab_size, (1, length))
        for micro_batch in range(3):  # the last one beside the gradients of the one before
            with torch.autocast("cpu", compute, enabled=compute != parameters):
                loss = trained(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            if micro_batch == 0:
                optimizer.step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes))


def adapter(lora: bool) -> AdapterConfig:
    return AdapterConfig(method=AdapterMethod.lora if lora else AdapterMethod.none)


def rows() -> Iterator[dict[str, Any]]:
    for (name, size), length, precision, (
        recomputed,
        (checkpointing, tiled),
    ), lora in itertools.product(
        SIZES.items(), LENGTHS, PRECISIONS, RECOMPUTED.items(), (False, True)
    ):
        config = LlamaConfig(
            vocab_size=2048, num_attention_heads=8, max_position_embeddings=2048,
            **{"num_key_value_heads": 8, **size},
        )  # fmt: skip
        parameters, compute = PRECISIONS[precision]
        estimate = estimate_memory(
            config,
            TrainerConfig(gradient_checkpointing=checkpointing, tiled_mlp=tiled),
            adapter(lora),
            context_length=length,
            dtype=parameters,
            compute_dtype=compute,
            chunk_bytes=chunk_bytes(CPU),
            tile_tokens=TILE,
        )
        measured = peak(config, length, precision, checkpointing, tiled, lora)
        yield {
            "model": name,
            "tokens": length,
            "precision": precision,
            "recomputed": recomputed,
            "LoRA": lora,
            "estimated MB": round(estimate.total / 1e6, 1),
            "measured MB": round(measured / 1e6, 1),
            "error": round(estimate.total / measured - 1, 3),
        }


def main() -> None:
    errors = []
    for row in rows():
        print(" | ".join(str(value) for value in row.values()), flush=True)
        errors.append(abs(row["error"]))
    print(f"median error {statistics.median(errors):.1%}, worst {max(errors):.1%}")


if __name__ == "__main__":
    main()
