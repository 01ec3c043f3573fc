#!/usr/bin/env bash
# Two context lengths, two methods, compared at equal tokens per step. The second call has nothing
# left to do, but writes the report again.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=${MODEL:-outputs/tiny_llama}
DATA=${DATA:-$HERE/chat.jsonl}

sweep() {
  sft-train --multirun model.name_or_path="$MODEL" data.train="$DATA" \
            context_length=64,256 rope=linear,yarn evaluation=quick trainer.max_steps=4 \
            trainer.learning_rate=1e-3 sweep=fair sweep.name=example
}
sweep
sweep
sft-report outputs/sweeps/example
