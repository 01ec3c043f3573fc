#!/usr/bin/env bash
# Two processes: first each with rows of its own and a shard of the model, then both with a part of
# each row. On a machine with GPUs they take one each; here, the CPU.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=${MODEL:-outputs/tiny_llama}
DATA=${DATA:-$HERE/chat.jsonl}

sft-train model.name_or_path="$MODEL" data.train="$DATA" context_length=64 trainer.max_steps=2 \
          launch.nproc_per_node=2 evaluation=none trainer.parallelism=fsdp \
          run.name=example_sharded

sft-train model.name_or_path="$MODEL" data.train="$DATA" context_length=64 trainer.max_steps=2 \
          launch.nproc_per_node=2 evaluation=none trainer.context_parallel_size=2 \
          run.name=example_context_parallel
