#!/usr/bin/env bash
# One run on data of your own: ask, train, look. About a minute with the tiny Llama.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=${MODEL:-outputs/tiny_llama}
DATA=${DATA:-$HERE/chat.jsonl}

sft-plan  model.name_or_path="$MODEL" data.train="$DATA" context_length=64 data.preview=1

sft-train model.name_or_path="$MODEL" data.train="$DATA" context_length=64 evaluation=quick \
          trainer.num_train_epochs=2 trainer.learning_rate=1e-3 \
          run.name=example_first_run

sft-report outputs/runs/example_first_run
