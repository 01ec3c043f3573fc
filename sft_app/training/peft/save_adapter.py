"""The adapter itself, beside the model it is merged into: for PEFT, and for engines that swap them.

`adapter/` of a run's directory: PEFT's adapter_config.json and adapter_model.safetensors, and the
config.json that its base has to be loaded with, for positions as they were trained.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sft_app.config.schema.model import ModelConfig
from sft_app.records.manifest import publish, write_manifest
from sft_app.records.run_files import write_atomically

PEFT_CONFIG = "adapter_config.json"


def stage_adapter(
    trained: nn.Module,
    model_config: ModelConfig,
    directory: Path,
    *,
    with_embeddings: bool,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write the adapter of PEFT's wrapper aside of `directory`, before it is merged; on rank 0.

    `with_embeddings`: tokens were added, so that the base's embedding has other rows; `weights`:
    those of a sharded model, gathered.
    """
    staged = _staged(directory)
    shutil.rmtree(staged, ignore_errors=True)
    wrapper: Any = trained
    wrapper.save_pretrained(staged, state_dict=weights, save_embedding_layers=with_embeddings)
    (staged / "README.md").unlink(missing_ok=True)  # a form without answers
    path = staged / PEFT_CONFIG
    about = json.loads(path.read_text(encoding="utf-8"))
    base = Path(model_config.name_or_path).expanduser()
    about |= {
        # Whole: it is read from other folders than this process's.
        "base_model_name_or_path": str(base.resolve())
        if base.exists()
        else model_config.name_or_path,
        "revision": model_config.revision,
    }
    write_atomically(path, json.dumps(about, indent=2) + "\n")


def publish_adapter(directory: Path, model_dir: Path) -> None:
    """Give what was staged its name, with the configuration of the saved model; else nothing."""
    staged = _staged(directory)
    if staged.is_dir():
        shutil.copy(model_dir / "config.json", staged)
        write_manifest(staged, all_finite=True)
        publish(staged, directory)


def _staged(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.partial")
