"""Run by a Python of its own: FastChat's published preprocessing of conversations, as it is.

python fastchat_reader.py JOBS.json: reads {name: job}, writes {name: ids and labels} beside it as
.out. A job: the directory of a checkpoint, the length, legacy, and ShareGPT conversations. What
stands before `preprocess` makes the tokenizer as FastChat's train.py does.
"""

import json
import sys
from pathlib import Path
from typing import Any

from transformers.utils import import_utils

# Of the main environment, made for another transformers.
import_utils._datasets_available = import_utils._peft_available = False

import transformers  # noqa: E402
from fastchat.train.train import preprocess  # noqa: E402


def rows_of(job: dict[str, Any]) -> dict[str, list[list[int]]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        job["directory"],
        model_max_length=job["length"],
        padding_side="right",
        use_fast=False,
        legacy=job["legacy"],
    )
    if tokenizer.pad_token != tokenizer.unk_token:
        tokenizer.pad_token = tokenizer.unk_token
    made = preprocess(job["conversations"], tokenizer)
    return {"ids": made["input_ids"].tolist(), "labels": made["labels"].tolist()}


def main(jobs: Path) -> None:
    assert transformers.__version__.startswith("4.57"), transformers.__version__
    found = {name: rows_of(job) for name, job in json.loads(jobs.read_text()).items()}
    jobs.with_suffix(".out").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
