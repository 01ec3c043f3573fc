"""The run that is killed: a tiny model with dropout, a few packed rows, two checkpoints kept."""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sft_app.config.schema.app import AppConfig, register_schema, to_typed

SETTINGS = (
    "context_length=64", "rope=none", "trainer.max_steps=12", "trainer.save_steps=2",
    "trainer.gradient_accumulation_steps=2", "trainer.learning_rate=1e-2", "launch.device=cpu",
    "data.eval_examples=6", "data.num_proc=1", "evaluation.before=false", "evaluation.lengths=[]",
    "evaluation.tasks=[]",
    "trainer.report_to=[]",
)  # fmt: skip


def small_run(folder: Path, ranks: int, overrides: Sequence[str] = ()) -> AppConfig:
    """Make the inputs in `folder`, and return the configuration of the run."""
    import hydra

    folder.mkdir(parents=True, exist_ok=True)
    model, data = folder / "model", folder / "chat.jsonl"
    if not model.exists() and not any(
        o.startswith("model.") for o in overrides
    ):  # in a process of its own: nothing is forked from one that has computed
        subprocess.run([sys.executable, "-m", "tests.fuzz.tiny_model", str(model)], check=True)
    letters = random.Random(0)
    with data.open("w") as file:
        for _ in range(60):
            words = "".join(letters.choices("abcd", k=letters.randint(2, 9)))
            turns = [("user", f"spell {words}"), ("assistant", " ".join(words))]
            record = {"messages": [{"role": role, "content": text} for role, text in turns]}
            file.write(json.dumps(record) + "\n")
    register_schema()
    with hydra.initialize_config_module("sft_app.conf", version_base="1.3"):
        own = [
            f"model.name_or_path={model}",
            f"data.train={data}",
            f"launch.nproc_per_node={ranks}",
        ]
        return to_typed(hydra.compose("config", overrides=[*SETTINGS, *own, *overrides]))
