"""The matrix of what combines with what: its tests are there, its refusals are real."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import Packing, PositionSkipping
from sft_app.config.schema.trainer import LossHead, Parallelism
from sft_app.config.validation import check_adapter, check_trainer
from sft_app.config.validation.check_trainer import check_trainer_support
from tests.docs.pages import ROOT
from tests.newer_transformers import NEEDS_SHARDED_MODELS

Settings = dict[str, Any]
PAGE = (ROOT / "docs" / "reference" / "matrix.md").read_text(encoding="utf-8")
HEADER, _, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|")
]
NAMED = re.findall(r"\[`(test_\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\)", PAGE)

TWO = {"launch.nproc_per_node": 2}
CONTEXT = TWO | {"trainer.context_parallel_size": 2}
TENSOR = TWO | {"trainer.tensor_parallel_size": 2}
CHECKPOINTING = {"trainer.gradient_checkpointing": True}
COLUMNS: dict[str, Settings] = {
    "packing": {},
    "ddp": TWO,
    "fsdp": TWO | {"trainer.parallelism": Parallelism.fsdp},
    "lora": {"adapter.method": AdapterMethod.lora},
    "context parallel": CONTEXT,
    "tensor parallel": TENSOR,
}
OF_ROWS: dict[str, Settings] = {
    "attention inside documents": {},
    "... with CUDA's varlen kernel": {},
    "chunked loss": {"trainer.loss_head": LossHead.chunked},
    "`trainer.loss_head=liger`": {"trainer.loss_head": LossHead.liger},
    "`data.packing=none`": {"data.packing": Packing.none},
    "`data.position_skipping=pose`": {"data.position_skipping": PositionSkipping.pose},
    "`tokenizer.add_tokens`": {"tokenizer.add_tokens": ["new"]},
    "`trainer.gradient_checkpointing`": CHECKPOINTING,
    "... with `every_n_layers`": CHECKPOINTING
    | {"trainer.gradient_checkpointing_kwargs": {"every_n_layers": 2}},
    "... with `offload`": CHECKPOINTING
    | {"trainer.gradient_checkpointing_kwargs": {"offload": True}},
    "resuming": {"trainer.resume_from_checkpoint": "run"},
    "loading in shards": {},
    "`trainer.bf16` over float32": {"trainer.bf16": True},
    "`trainer.optim=muon`": {"trainer.optim": "muon"},
    "`trainer.optim=adafactor`": {"trainer.optim": "adafactor"},
    "`trainer.optim=adamw_8bit` and its kin": {"trainer.optim": "adamw_8bit"},
    "`trainer.optim=paged_...`": {"trainer.optim": "paged_adamw_8bit"},
    "`trainer.fp16`": {"trainer.fp16": True},
    "`adapter=lora`": {"adapter.method": AdapterMethod.lora},
    "`adapter=qlora`": {"adapter.method": AdapterMethod.qlora},
    "`trainer.torch_compile`": {"trainer.torch_compile": True},
    "... with `gradient_checkpointing`": CHECKPOINTING | {"trainer.torch_compile": True},
    "`trainer.parallelism=fsdp`": {"trainer.parallelism": Parallelism.fsdp},
    "groups of processes, each with rows of its own": {"launch.nproc_per_node": 4},
    "`trainer.context_parallel_size`": CONTEXT,
    "DeepSpeed": {"trainer.extra": {"deepspeed": "zero3.json"}},
}
LATER = {("`tokenizer.add_tokens`", "tensor parallel")}
"""Refused when the tokenizer is known: in one case the token is there already."""


@pytest.mark.parametrize(("test", "file"), NAMED)
def test_every_named_test_is_there(test: str, file: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_cell_has_a_line_below_and_every_line_a_cell() -> None:
    table, _, below = PAGE.partition("## The tests")
    assert set(re.findall(r"\(#(\w+)\)", table)) == set(re.findall(r'<a id="(\w+)">', below))


def with_settings(config: AppConfig, settings: Settings) -> AppConfig:
    config = copy.deepcopy(config)
    for key, value in settings.items():
        group, _, name = key.partition(".")
        assert hasattr(getattr(config, group), name), key
        setattr(getattr(config, group), name, value)
    return config


def is_refused(config: AppConfig) -> bool:
    try:
        check_trainer_support(config)
    except ConfigError:
        return True
    return False


@NEEDS_SHARDED_MODELS
def test_a_refused_cell_is_refused_and_no_other_is(
    compose: Callable[..., AppConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (check_adapter, check_trainer):
        monkeypatch.setattr(module, "is_installed", lambda name: True)
    config = compose("model.name_or_path=org/model", "data.train=org/data")
    said, found = {}, {}
    for name, *cells in ROWS:
        for column, cell in zip(HEADER[1:], cells, strict=True):
            settings = OF_ROWS[name] | COLUMNS[column]
            if name.startswith("groups"):
                settings |= OF_ROWS[name]  # more processes than share a row or a matrix
            said[name, column] = "refused" in cell
            found[name, column] = is_refused(with_settings(config, settings))
    assert all(said[cell] and not found[cell] for cell in LATER)
    assert {cell for cell in said if said[cell]} - LATER == {cell for cell in found if found[cell]}
