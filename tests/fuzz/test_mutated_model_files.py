"""A checkpoint's files as copies that broke off and scripts leave them: a plan, or one sentence."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.locate import find_checkpoint
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.tensor_headers import INDEX, read_headers
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.training.model_plan import plan_model
from tests.fuzz.mutations import (
    HOSTILE,
    as_file,
    byte_changes,
    changed_bytes,
    changed_json,
    changed_text,
    ends_well,
    fuzzed,
    json_changes,
    text_changes,
)

Compose = Callable[..., AppConfig]


@pytest.fixture(scope="module")
def sharded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, its weights in several files below an index."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("sharded")
    LlamaForCausalLM.from_pretrained(tiny_model).save_pretrained(folder, max_shard_size="30KB")
    return folder


@contextlib.contextmanager
def changed(folder: Path, name: str, content: bytes) -> Iterator[None]:
    """Write a file of a folder, and put back what was there."""
    before = (folder / name).read_bytes() if (folder / name).exists() else None
    (folder / name).write_bytes(content)
    try:
        yield
    finally:
        (folder / name).unlink()
        if before is not None:
            (folder / name).write_bytes(before)


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


@pytest.fixture
def config(compose: Compose, own: Path) -> AppConfig:
    return compose(
        f"model.name_or_path={own}",
        "data.train=org/data",
        "context_length=128",
        "launch.device=cpu",
    )


def plan(config: AppConfig) -> None:
    """Plan as sft-plan does, up to the data."""
    plans = plan_model(config, torch.device("cpu"))
    json.dumps({"rope": plans.rope.as_dict(), "weights": plans.weights.as_dict()}, default=str)
    assert str(plans)


@fuzzed(few=40)
@given(changes=byte_changes(), name=st.sampled_from(["model.safetensors", "shard", INDEX]))
def test_weights_with_other_bytes_are_read_or_refused(
    own: Path, sharded: Path, changes: Any, name: str
) -> None:
    folder = own if name == "model.safetensors" else sharded
    if name == "shard":
        name = next(path.name for path in sorted(sharded.glob("*-of-*.safetensors")))
    whole = (folder / name).read_bytes()
    # Numbers may be any: what is looked at is the header.
    end = len(whole) if name == INDEX else 8 + int.from_bytes(whole[:8], "little")
    content = changed_bytes(whole[:end], changes) + whole[end:]
    with changed(folder, name, content), ends_well():
        read_headers(find_checkpoint(ModelConfig(name_or_path=str(folder))))
        opened_by_the_library(folder)


def opened_by_the_library(folder: Path) -> None:
    """What was read before must not fail after minutes, when the weights are loaded."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.keys() is not None


@fuzzed(few=20)
@given(changes=json_changes(), name=st.sampled_from(["model.safetensors", INDEX]))
def test_weights_with_another_header_are_planned_or_refused(
    own: Path, sharded: Path, config: AppConfig, changes: Any, name: str
) -> None:
    folder = own if name == "model.safetensors" else sharded
    whole = (folder / name).read_bytes()
    if name == INDEX:
        content = as_file(changed_json(json.loads(whole), changes))
    else:
        end = 8 + int.from_bytes(whole[:8], "little")
        header = as_file(changed_json(json.loads(whole[8:end]), changes))
        content = len(header).to_bytes(8, "little") + header + whole[end:]
    config.model.name_or_path = str(folder)
    config.tokenizer.name_or_path = str(own)
    with changed(folder, name, content), ends_well():
        plan(config)
        opened_by_the_library(folder)


@fuzzed(few=24)
@given(changes=json_changes(), name=st.sampled_from(["config.json", "generation_config.json",
       "tokenizer.json", "tokenizer_config.json"]))  # fmt: skip
def test_a_json_file_with_other_values_is_planned_or_refused(
    own: Path, config: AppConfig, changes: Any, name: str
) -> None:
    stated = json.loads((own / name).read_text())
    with changed(own, name, as_file(changed_json(stated, changes))), ends_well():
        plan(config)


@fuzzed(few=12)
@given(changes=text_changes(), name=st.sampled_from(["config.json", "generation_config.json",
       "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]))  # fmt: skip
def test_a_file_with_other_text_is_planned_or_refused(
    own: Path, config: AppConfig, changes: Any, name: str
) -> None:
    with changed(own, name, changed_text((own / name).read_text(), changes)), ends_well():
        plan(config)


ROPE_KEYS = (
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast",
    "attention_factor", "mscale", "low_freq_factor", "high_freq_factor", "short_factor",
    "long_factor", "partial_rotary_factor", "truncate", "full_attention", "sliding_attention",
)  # fmt: skip
ROPE_VALUES = st.one_of(
    HOSTILE,
    st.sampled_from(["linear", "dynamic", "yarn", "llama3", "longrope", "proportional", 8.0, 0.5,
                     64, [1.0] * 4, {"rope_type": "yarn", "factor": 4.0}]),
)  # fmt: skip


@fuzzed(few=15)
@given(
    stated=st.dictionaries(st.sampled_from(ROPE_KEYS), ROPE_VALUES, max_size=6),
    key=st.sampled_from(["rope_parameters", "rope_scaling"]),
)
def test_a_rotation_with_other_values_is_planned_or_refused(
    own: Path, config: AppConfig, stated: Any, key: str
) -> None:
    whole = json.loads((own / "config.json").read_text())
    parameters = whole.pop("rope_parameters")
    content = as_file({**whole, key: {**parameters, **stated}})
    with changed(own, "config.json", content), ends_well():
        plan(config)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from sentencepiece import SentencePieceTrainer

    prefix = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    SentencePieceTrainer.train(
        sentence_iterator=iter([f"the number {n} and some words" for n in range(200)]),
        model_prefix=str(prefix), vocab_size=300, model_type="bpe", byte_fallback=True,
        minloglevel=2,
    )  # fmt: skip
    return prefix.with_suffix(".model").read_bytes()


@fuzzed(few=30)
@given(changes=byte_changes(), beside=st.booleans())
def test_a_sentencepiece_model_with_other_bytes_is_read_or_refused(
    own: Path, config: AppConfig, sentencepiece: bytes, changes: Any, beside: bool
) -> None:
    """Alone, and beside a tokenizer.json that it is compared with."""
    hf_config = load_pretrained_config(config.model)
    model = changed(own, "tokenizer.model", changed_bytes(sentencepiece, changes))
    whole = (own / "tokenizer.json").read_bytes()
    if not beside:
        (own / "tokenizer.json").unlink()
    with model, ends_well():
        load_tokenizer(config.tokenizer, config.model, hf_config)
    (own / "tokenizer.json").write_bytes(whole)
