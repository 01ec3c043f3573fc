"""What the README and the reference list is what there is."""

import re
import tomllib

import pytest
import torch
import yaml
from transformers import LlamaConfig

from sft_app.config.conf_files import group_options
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.config.schema.trainer import TrainerConfig
from sft_app.training.estimates.memory_estimate import estimate_memory
from sft_app.training.loss.chunked_cross_entropy import chunk_bytes
from tests.docs.pages import PAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_readme_can_be_read_in_one_go() -> None:
    assert 100 <= len(README.splitlines()) <= 140


def test_the_quickstart_names_every_recipe() -> None:
    named = re.findall(r"^\| `(\w+)` \|", QUICKSTART, re.MULTILINE)
    assert sorted(named) == group_options("experiment")


def test_every_extra_for_users_is_named() -> None:
    extras = PROJECT["optional-dependencies"].keys() - {"dev", "docs"}
    for extra in extras:
        assert f"`{extra}`" in README, extra


def test_every_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        commands = re.findall(r"`make ([a-z][a-z -]*)", page.read_text(encoding="utf-8"))
        for command in commands:
            assert set(command.split()) <= targets, (page, command)


def test_the_8b_row_of_the_memory_table_is_what_is_estimated() -> None:
    shape = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )

    def gib(method: AdapterMethod, length: int) -> float:
        estimate = estimate_memory(
            shape,
            TrainerConfig(gradient_checkpointing=True),
            AdapterConfig(method=method),
            context_length=length,
            dtype=torch.float32 if method is AdapterMethod.none else torch.bfloat16,
            compute_dtype=torch.bfloat16,
            chunk_bytes=chunk_bytes(torch.device("cuda")),
        )
        return estimate.total / 2**30

    (row,) = [line for line in README.splitlines() if line.startswith("| 8B")]
    full, lora, qlora, longer = (float(cell) for cell in row.split("|")[2:6])
    methods = (AdapterMethod.none, AdapterMethod.lora, AdapterMethod.qlora)
    assert [full, lora, qlora] == pytest.approx([gib(m, 8192) for m in methods], rel=0.15)
    more = gib(AdapterMethod.lora, 32768) - gib(AdapterMethod.lora, 8192)
    assert longer == pytest.approx(more, rel=0.15)


def test_public_ci_runs_the_oldest_and_the_newest_that_are_supported() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["check"]["strategy"]["matrix"]
    (supported,) = [d for d in PROJECT["dependencies"] if d.startswith("transformers")]
    oldest, newest = supported.removeprefix("transformers>=").split(",")
    assert matrix["transformers"] == ["pinned", f"=={oldest}.0", newest]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    compatibility = (ROOT / "docs/reference/compatibility.md").read_text(encoding="utf-8")
    assert f"| transformers | {oldest} and newer" in compatibility
