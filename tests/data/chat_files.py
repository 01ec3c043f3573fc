"""Small chat files, and prepare_data with the settings that most tests want."""

from pathlib import Path
from typing import Any

from sft_app.config.schema.data import DataConfig
from sft_app.data.prepare_data import prepare_data

LENGTH = 128


def sharegpt(number, turns=2):
    words = f"number {number} " * (1 + number % 7)
    exchange = [
        {"from": "human", "value": f"What about {words}?"},
        {"from": "gpt", "value": f"The answer is {words}."},
    ]
    return {"id": str(number), "conversations": exchange * turns}


def settings(path: Path, tmp_path: Path, **changes: Any) -> DataConfig:
    values: dict[str, Any] = {
        "train": str(path),
        "eval_examples": 5,
        "cache_dir": str(tmp_path / "cache"),
    }
    return DataConfig(**(values | changes))


def prepare(config, tokenizer, seed=1):
    return prepare_data(config, tokenizer, context_length=LENGTH, seed=seed)
