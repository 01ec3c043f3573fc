#!/usr/bin/env bash
# LoRA: a few weights are trained beside frozen ones, and added to them at the end. The result is a
# plain model. Needs the extra [lora].
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=${MODEL:-outputs/tiny_llama}
DATA=${DATA:-$HERE/chat.jsonl}

sft-train model.name_or_path="$MODEL" data.train="$DATA" context_length=64 evaluation=none \
          adapter=lora adapter.rank=8 trainer.learning_rate=2e-3 trainer.max_steps=8 \
          run.name=example_adapter
