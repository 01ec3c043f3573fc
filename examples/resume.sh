#!/usr/bin/env bash
# A run that stopped goes on from its newest complete checkpoint.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=${MODEL:-outputs/tiny_llama}
DATA=${DATA:-$HERE/chat.jsonl}

run() {
  sft-train model.name_or_path="$MODEL" data.train="$DATA" context_length=64 evaluation=none \
            trainer.max_steps=8 trainer.save_steps=4 hydra.run.dir=outputs/examples/resume "$@"
}
run
rm -r outputs/examples/resume/checkpoints/checkpoint-8    # as if it had ended after step 4
run trainer.resume_from_checkpoint=outputs/examples/resume
