#!/usr/bin/env bash
# A run with a name is told to end in the middle, and goes on when the same command is given again.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=${MODEL:-outputs/tiny_llama}
DATA=${DATA:-$HERE/chat.jsonl}

command=(
  sft-train model.name_or_path="$MODEL" data.train="$DATA" context_length=64 evaluation=none
  trainer.max_steps=200 trainer.save_steps=20 run.name=example_resume
)
"${command[@]}" &
until [ -d outputs/runs/example_resume/checkpoints/checkpoint-20 ] || ! kill -0 $!; do sleep 0.2; done
kill -TERM $!         # it finishes its step, writes a checkpoint, and ends as interrupted
wait $! || true
"${command[@]}"
