"""Which folders hold an adapter of PEFT, and no model of their own."""

from pathlib import Path

from sft_app.loader.checkpoint.load_report import PEFT_CONFIG


def is_adapter(directory: Path) -> bool:
    """Tell whether `directory` holds an adapter, and no model of its own."""
    weights = [*directory.glob("model*.safetensors"), *directory.glob("pytorch_model*.bin")]
    return (directory / PEFT_CONFIG).is_file() and not weights
