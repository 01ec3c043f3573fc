"""pytorch_model.bin: refused in the plan, or compared there like any other, without its numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.pickled_headers import PICKLED_INDEX
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import WeightsPlan, plan_weights

MakeCheckpoint = Callable[..., ModelConfig]
Weights = dict[str, torch.Tensor]


@pytest.fixture
def pickled(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> tuple[Path, Weights]:
    """A directory without weights, and the weights."""
    shutil.copytree(make_checkpoint("llama").name_or_path, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    return tmp_path, weights


def planned(directory: Path, *, allowed: bool = True) -> WeightsPlan:
    model = ModelConfig(name_or_path=str(directory), allow_pickle=allowed)
    return plan_weights(model, load_pretrained_config(model))


@pytest.mark.parametrize("zipped", [True, False])
def test_they_are_compared_in_the_plan(pickled: tuple[Path, Weights], zipped: bool) -> None:
    directory, weights = pickled
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    half["model.norm.weight"] = weights["model.norm.weight"]
    file = directory / "pytorch_model.bin"
    torch.save(half, file, _use_new_zipfile_serialization=zipped)
    plan = planned(directory)
    assert (plan.num_tensors, plan.dtype) == (21, torch.bfloat16)
    assert plan.tensor_dtypes == {"model.norm.weight": torch.float32}


def test_not_allowed_is_told_before_anything_is_tokenised(pickled: tuple[Path, Weights]) -> None:
    directory, weights = pickled
    torch.save(weights, directory / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"model\.allow_pickle=true"):
        planned(directory, allowed=False)


def test_shards_are_read_by_their_index(pickled: tuple[Path, Weights]) -> None:
    directory, weights = pickled
    where: dict[str, str] = {}
    for number in (1, 2):
        part = {n: t for i, (n, t) in enumerate(weights.items()) if i % 2 == number - 1}
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save(part, directory / file)
        where |= dict.fromkeys(part, file)
    with pytest.raises(ConfigError, match=f"no {PICKLED_INDEX}"):
        planned(directory)
    (directory / PICKLED_INDEX).write_text(json.dumps({"weight_map": where}))
    assert planned(directory).num_tensors == 21
    (directory / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ConfigError, match=r"lacks the weight shard .*00002-of-00002"):
        planned(directory)


def runs_code(directory: Path, weights: Weights) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (directory / "harmed",))

    torch.save({**weights, "model.norm.weight": Harm()}, directory / "pytorch_model.bin")


BROKEN: dict[str, tuple[Callable[[Path, Weights], object], str]] = {
    "rubbish": (lambda d, w: (d / "pytorch_model.bin").write_bytes(b"no pickle"), "cannot be read"),
    "code": (runs_code, "cannot be read by torch's restricted"),
    "a whole state": (lambda d, w: torch.save({"model": w, "epoch": 3}, d / "pytorch_model.bin"),
                      "cannot be read"),
    "a hole": (lambda d, w: torch.save({n: t for n, t in w.items() if "q_proj" not in n},
                                       d / "pytorch_model.bin"), "lacks .*q_proj"),
    "a prefix": (lambda d, w: torch.save({f"module.{n}": t for n, t in w.items()},
                                         d / "pytorch_model.bin"), "names begin with 'module.'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_told_in_one_sentence(pickled: tuple[Path, Weights], what: str) -> None:
    directory, weights = pickled
    breaks, message = BROKEN[what]
    breaks(directory, weights)
    with pytest.raises(ConfigError, match=message) as refused:
        planned(directory)
    assert len(str(refused.value)) < 500 and not (directory / "harmed").exists()
