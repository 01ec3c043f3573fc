#!/usr/bin/env bash
# Four times the context that the model was trained for, by YaRN; perplexity before and after, at
# and below the new length, on text files (here this checkout's pages).
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
MODEL=${MODEL:-outputs/tiny_llama}
DATA=${DATA:-$HERE/chat.jsonl}

sft-train model.name_or_path="$MODEL" data.train="$DATA" context_length=512 rope=yarn \
          "evaluation.lengths=[64,256,512]" "evaluation.documents=$HERE/../docs/guides/*.md" \
          evaluation.max_documents=4 "evaluation.tasks=[]" \
          trainer.max_steps=4 trainer.learning_rate=1e-3 \
          run.name=example_longer_context
