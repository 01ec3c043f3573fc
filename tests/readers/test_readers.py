"""What is saved, as transformers 4.57 and llama.cpp's converter read it (make test-readers).

Published checkpoints of 20 families (tests/loader/published.py), saved again as they came and, some
of them, at twice their context. Both readers run in an environment of their own; the converter and
v4 are also given the source, so that a difference can only come from saving.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from sft_app.config.schema.rope import RopeConfig, RopeMethod
from tests.loader.published import CONFIGS, write_published
from tests.loader.train_and_save import save_again
from tests.readers.v4_reader import IDS, TEXT

pytestmark = pytest.mark.readers

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-readers" / "bin" / "python"
NOT_IN_V4 = {"hunyuan"}
"""Of transformers 4.57: HunYuan's alpha comes with the remote code of its checkpoint."""
NO_CONVERTER = {
    *("phi-3-128k", "phi-4-mini", "gemma-2"),  # need a tokenizer.model
    *("gemma-3-4b", "smollm3"),  # need a published tokenizer
    *("glm-4.5", "deepseek-v3", "hunyuan"),  # names that its own gguf package does not have
}
"""Families that version 0.1.1 cannot convert as they were published."""

EXTENDED: dict[str, tuple[str, int, RopeConfig]] = {
    "linear": ("mistral-nemo", 262_144, RopeConfig()),
    "yarn": ("qwen3", 131_072, RopeConfig(method=RopeMethod.yarn)),
    "llama3": ("llama-3.1", 262_144, RopeConfig()),
    "ntk": ("mistral-nemo", 262_144, RopeConfig(method=RopeMethod.ntk)),
    "gemma": ("gemma-3-4b", 262_144, RopeConfig()),
    "olmo": ("olmo-3", 131_072, RopeConfig()),
    "gpt-oss yarn": ("gpt-oss", 262_144, RopeConfig()),
    "drope": ("llama-3.1", 4_096, RopeConfig(method=RopeMethod.drope, factor=8)),
}
"""Name -> family, tokens, method."""

Findings = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> as published; family + " saved" -> saved again; a method -> extended and saved."""
    root = tmp_path_factory.mktemp("readers")
    made = {}
    for family in CONFIGS:
        made[family] = write_published(family, root / family)
        made[f"{family} saved"] = save_again(made[family], root / f"{family}-saved").directory
    for name, (family, length, rope) in EXTENDED.items():
        target = root / f"extended-{name.replace(' ', '-')}"
        made[name] = save_again(made[family], target, context_length=length, rope=rope).directory
    return made


def run(script: str, jobs: dict[str, Path], folder: Path) -> Findings:
    file = folder / f"{script}.json"
    file.write_text(json.dumps({name: str(path) for name, path in jobs.items()}))
    if not PYTHON.is_file():
        pytest.fail(f"{PYTHON} is not there: run these tests by make test-readers")
    answer = subprocess.run(
        [str(PYTHON), str(HERE / f"{script}.py"), str(file)],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]
    found: Findings = json.loads(file.with_suffix(".out").read_text())
    return found


@pytest.fixture(scope="module")
def by_v4(directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return run("v4_reader", directories, tmp_path_factory.mktemp("v4"))


@pytest.fixture(scope="module")
def by_converter(
    directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Findings:
    return run("gguf_reader", directories, tmp_path_factory.mktemp("gguf"))


def by_v5(directory: Path) -> tuple[list[int], torch.Tensor]:
    auto = AutoModelForCausalLM
    if '"vision_config"' in (directory / "config.json").read_text():
        auto = AutoModelForImageTextToText
    model = auto.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    return AutoTokenizer.from_pretrained(directory)(TEXT)["input_ids"], logits


@pytest.mark.parametrize("family", [f for f in CONFIGS if f not in NOT_IN_V4])
def test_v4_reads_the_saved_as_it_reads_the_source(by_v4: Findings, family: str) -> None:
    source, saved = by_v4[family], by_v4[f"{family} saved"]
    assert "error" not in source, f"not a test: {source}"
    assert "error" not in saved, saved
    assert not saved["missing"] and not saved["unexpected"]
    for key in ("logits", "inv_freq", "ids", "chat", "special"):
        assert saved[key] == source[key], key
    settings = dict(source["generation"])
    ends = settings.pop("eos_token_id", [])
    settings.pop("do_sample", None)
    for key, value in settings.items():
        assert saved["generation"][key] == value
    assert set(ends if isinstance(ends, list) else [ends]) <= set(
        saved["generation"]["eos_token_id"]
    )


@pytest.mark.parametrize(
    "name", [f"{f} saved" for f in CONFIGS if f not in NOT_IN_V4] + [*EXTENDED]
)
def test_v4_and_v5_agree(by_v4: Findings, directories: dict[str, Path], name: str) -> None:
    found = by_v4[name]
    assert "error" not in found, found
    ids, logits = by_v5(directories[name])
    assert found["ids"] == ids
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("family", [f for f in CONFIGS if f not in NO_CONVERTER])
def test_the_converter_reads_the_saved_as_the_source(by_converter: Findings, family: str) -> None:
    source, saved = by_converter[family], by_converter[f"{family} saved"]
    assert "error" not in source, f"not a test: {source}"
    assert saved == source


def test_the_converter_finds_each_method(by_converter: Findings) -> None:
    linear, yarn, ntk = by_converter["linear"], by_converter["yarn"], by_converter["ntk"]
    assert (linear["rope.scaling.type"], linear["rope.scaling.factor"]) == ("linear", 2.0)
    assert linear["context_length"] == 131_072, "the original length, as the plan says"
    assert (yarn["rope.scaling.type"], yarn["rope.scaling.factor"]) == ("yarn", 4.0)
    assert yarn["rope.scaling.original_context_length"] == 40_960
    assert ntk["rope.freq_base"] > 1.9e6 and "rope.scaling.type" not in ntk
