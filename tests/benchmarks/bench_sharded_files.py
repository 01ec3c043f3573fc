"""(11) Memory of each rank while a sharded model is loaded and saved: in slices, and by rank 0.

A Llama of 102M parameters, stored in bfloat16 (205 MB) and trained in float32 (410 MB), on two
gloo ranks: processes of their own that have done the same with a tiny model before. A peak is how
far the resident memory rose, pages of mapped files included; when loading, so are the shards. Of a
Qwen3-MoE of about that size, whose files have three tensors for each of its 128 experts, what the
loading takes: rank 0 saves it whole either way.
"""

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from sft_app.compat.python_internals import end_process
from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import plan_weights
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.save_pretrained import in_dtypes
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.training.parallel.fsdp import gather_weights, shard
from sft_app.training.parallel.loading_plan import plan_loading
from sft_app.training.saving.sharded_files import gather_from, plan_files, write_files
from tests.benchmarks.measuring import extra_peak_bytes, write_table

CPU = torch.device("cpu")
SIZE = {
    "vocab_size": 16_000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 11,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
}
EXPERTS = {
    "vocab_size": 16_000,
    "hidden_size": 512,
    "moe_intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_experts": 128,
    "num_experts_per_tok": 4,
    "num_attention_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}
LARGEST_FILE = 64 << 20
"""Bytes, so that both ranks have files to write; in runs it is 1 to 5 GiB."""
WAYS = ("by rank 0", "in slices")


def measure(source: Path, out: Path, *, slices: bool) -> dict[str, Any]:
    """Load, shard and save as one rank; bytes and seconds."""
    config = ModelConfig(name_or_path=str(source))
    pretrained = load_pretrained_config(config)
    rope = plan_rope(pretrained, 2048, RopeConfig())
    loading = plan_loading(plan_weights(config, pretrained), rope)
    assert loading.stored is not None
    stored = loading.stored if slices else None
    made: list[Any] = []

    def load() -> None:
        model = load_model(config, pretrained, rope, on_host_of_rank_0=True, stored=stored)
        shard(model, model, CPU)
        made.append(model)

    def save() -> None:
        (model,) = made
        plan = plan_files(model, torch.bfloat16, {}, largest=LARGEST_FILE) if slices else None
        if plan is not None:
            write_files(plan, model, gather_from(model), out)
        else:
            weights = gather_weights(model)
            if weights:
                saved = in_dtypes(weights, torch.bfloat16, {})
                model.save_pretrained(out, state_dict=saved, max_shard_size=LARGEST_FILE)
            dist.barrier()

    answer: dict[str, Any] = {}
    for name, case in (("load", load), ("save", save)):
        dist.barrier()
        began = time.perf_counter()
        answer[f"{name} peak"] = extra_peak_bytes(case)
        answer[f"{name} seconds"] = time.perf_counter() - began
        gc.collect()
    answer["shards"] = sum(p.to_local().nbytes for p in made[0].parameters())
    return answer


def on_two_ranks(source: Path, out: Path, way: str) -> list[dict[str, Any]]:
    """Start two processes, and return what each measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.bench_sharded_files",
             "--rank-of", way, "--source", str(source), "--files", str(out)],
            env=os.environ | {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [rank.communicate()[0] for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), outputs
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def rows() -> list[dict[str, Any]]:
    tiny = {"hidden_size": 24, "num_hidden_layers": 1, "vocab_size": 97}
    of_experts = {"moe_intermediate_size": 8, "num_experts": 4}
    return [
        *rows_of(
            "dense",
            lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
            lambda: LlamaForCausalLM(LlamaConfig(**SIZE | tiny)),
        ),
        *rows_of(
            "experts",
            lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**EXPERTS)),
            lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**EXPERTS | tiny | of_experts)),
        ),
    ]


def rows_of(
    model_name: str, build: Callable[[], PreTrainedModel], build_tiny: Callable[[], PreTrainedModel]
) -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        torch.manual_seed(0)
        model = build().bfloat16()
        model.save_pretrained(source, max_shard_size=LARGEST_FILE)
        build_tiny().save_pretrained(source.with_name("tiny"))
        source.with_name("nothing").mkdir()
        whole = 4 * model.num_parameters()
        for way in WAYS:
            out = Path(directory) / way.replace(" ", "-")
            out.mkdir()
            for rank, answer in enumerate(on_two_ranks(source, out, way)):
                found.append(
                    {
                        "model": model_name,
                        "way": way,
                        "rank": rank,
                        "model MB": round(whole / 1e6),
                        "its shards MB": round(answer["shards"] / 1e6),
                        "load, peak MB": round(answer["load peak"] / 1e6),
                        "save, peak MB": round(answer["save peak"] / 1e6),
                        "load s": round(answer["load seconds"], 1),
                        "save s": round(answer["save seconds"], 1),
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank-of")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--files", type=Path)
    options, _ = parser.parse_known_args()
    if options.rank_of is None:
        write_table(
            "sharded_files",
            "Memory of each rank while a sharded model is loaded and saved",
            rows(),
            "in slices, no rank comes near the whole model beside what it keeps",
        )
        return
    dist.init_process_group("gloo")
    slices = options.rank_of == "in slices"
    measure(options.source.with_name("tiny"), options.files.with_name("nothing"), slices=slices)
    answer = measure(options.source, options.files, slices=slices)
    print(json.dumps(answer), flush=True)
    dist.destroy_process_group()
    end_process(0)


if __name__ == "__main__":
    main()
