"""What a run of the real command left, for tests that train once and look at it often."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.records.result import RunResult, read_result

Run = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Trained:
    """A completed run."""

    directory: Path
    result: RunResult
    output: str
    """What stood on the screen."""

    @property
    def losses(self) -> list[float]:
        return self._logged("loss")

    @property
    def heldout_losses(self) -> list[float]:
        """Those measured while training went."""
        return self._logged("eval_loss")

    def _logged(self, key: str) -> list[float]:
        lines = (self.directory / "metrics.jsonl").read_text().splitlines()
        return [line[key] for line in map(json.loads, lines) if key in line]

    @property
    def log(self) -> str:
        return (self.directory / "train.log").read_text()

    def weights(self) -> dict[str, Any]:
        """Read the saved model's tensors."""
        from safetensors.torch import load_file

        return load_file(self.directory / "model" / "model.safetensors")


def run_training(
    run_command: Run, model: Path, data: Path, *overrides: str, work: Path, cache: Path
) -> Trained:
    """Run sft-train on the CPU in `work`, six steps unless `overrides` say otherwise."""
    answer = run_command(
        "sft-train",
        f"model.name_or_path={model}",
        f"data.train={data}",
        "data.eval_examples=8",
        "context_length=128",
        "trainer.max_steps=6",
        "trainer.gradient_accumulation_steps=2",
        "trainer.learning_rate=3e-3",
        "launch.device=cpu",
        "evaluation.verify_saved=false",  # a process more each time: test_verify.py has it on
        "hydra.run.dir=run",
        *overrides,
        cwd=work,
        env={"SFT_CACHE_DIR": str(cache)},
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return Trained(work / "run", read_result(work / "run"), answer.stdout)
