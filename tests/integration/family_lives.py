"""The whole life of every family: `python -m tests.integration.family_lives FOLDER [FAMILY ...]`.

Each causal LM of transformers is built tiny and random, saved with a tokenizer of bytes, and given
to the real command: trained, gone on with from its first checkpoint, recomputed, and with an
adapter on all linear layers. Prints a line a family; some 40 seconds each on one core. What must be
true of each is tested on a few in test_family_lives.py.
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import sft_app
from tests.conftest import conversations
from tests.data.tokenizers_for_tests import CHATML, byte_level
from tests.training import packing_census

STEP = ("trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=2")
"""Rows that are recomputed, and a run that goes on, have the very bits of the first one."""
LIFE = (*STEP, "trainer.max_steps=4", "trainer.save_strategy=steps", "trainer.save_steps=2")


@dataclass(frozen=True)
class Life:
    """What became of one family."""

    family: str
    trained: str
    """The run's status, or the sentence that it was refused with."""
    keeps_names: bool | None = None
    """The saved model has the names of the source."""
    resumed: float | None = None
    """Largest difference of the final weights, gone on with from the second of four steps."""
    recomputed: float | str | None = None
    """The same with gradient checkpointing, or the sentence."""
    adapted: str | None = None

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{self.family:<24}{self.trained}; names kept: {self.keeps_names}; resumed off by "
            f"{self.resumed}; recomputed off by {self.recomputed}; adapter: {self.adapted}"
        )


def save_tiny(family: str, directory: Path) -> bool:
    """Save a tiny model with a tokenizer and conversations; False where none can be built."""
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    before = dict(packing_census.SMALL)
    words = len(tokenizer) + 1
    packing_census.SMALL.update(
        vocab_size=words, vocab_size_per_layer_input=words, pad_token_id=None, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    try:
        model = packing_census.tiny_model(family)
    finally:
        packing_census.SMALL.update(before)
    if model is None:
        return False
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.4)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    records = conversations(40, random.Random(0))
    (directory / "chat.json").write_text(json.dumps(records))
    return True


def live(family: str, folder: Path) -> Life | None:
    """Take a family through all of it; None where no tiny model of it can be built."""
    source, first, second = folder / "source", folder / "first", folder / "second"
    if not save_tiny(family, source):
        return None
    life = Life(family, train(source, first, *LIFE))
    if life.trained == "completed":
        shutil.copytree(first, second)
        for name in ("model", "checkpoints/checkpoint-4"):
            shutil.rmtree(second / name)
        for name in ("result.json", "metrics.jsonl"):
            (second / name).unlink()
        names = weights(source).keys()
        life = replace(life, keeps_names=weights(first / "model").keys() == names)
        if train(source, second, *LIFE) == "completed":
            life = replace(life, resumed=difference(first, second))
        again = folder / "recomputed"
        recomputing = ("trainer.gradient_checkpointing=true", "trainer.max_steps=4")
        said = train(source, again, *STEP, *recomputing, "trainer.save_strategy=no")
        life = replace(life, recomputed=difference(first, again) if said == "completed" else said)
    few = ("trainer.max_steps=2", "trainer.save_strategy=no", "adapter.rank=4")
    return replace(life, adapted=train(source, folder / "adapted", "adapter=lora", *few))


def train(source: Path, run: Path, *settings: str) -> str:
    """Return how the run ended: its status, or what it said."""
    try:
        config = sft_app.compose(
            [
                f"model.name_or_path={source}", f"data.train={source / 'chat.json'}",
                "context_length=64", "evaluation=none", "data.eval_examples=0",
                "launch.device=cpu", "trainer.report_to=[]", "trainer.learning_rate=1e-2",
                f"data.cache_dir={source.parent / 'cache'}", *settings,
            ]
        )  # fmt: skip
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return str(sft_app.train(config, run).status)
    except Exception as error:  # whatever it is, the other families are worth having
        return f"{type(error).__name__}: {error}"


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a saved model."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load_file(file)
    return found


def difference(one: Path, other: Path) -> float:
    """Return the largest difference between the final models of two runs."""
    ours, theirs = weights(one / "model"), weights(other / "model")
    assert ours.keys() == theirs.keys()
    pairs = ((ours[name].float(), theirs[name].float()) for name in ours if ours[name].numel())
    return max((a - b).abs().max().item() for a, b in pairs)


def main() -> None:
    """Take all families, or those that are named, through their lives."""
    folder = Path(sys.argv[1])
    others = {*packing_census.ENCODERS, *packing_census.DECODERS_OF_OTHERS}
    for family in sys.argv[2:] or sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - others):
        life = live(family, folder / family)
        print(life or f"{family:<24}no tiny model of it can be built", flush=True)
        shutil.rmtree(folder / family, ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
