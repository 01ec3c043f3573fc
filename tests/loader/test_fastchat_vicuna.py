"""experiment=fastchat_vicuna: FastChat's loading rules, one test for each.

The rules: linear RoPE with factor ceil(L / L0) if L > L0; use_cache off in training, on again
before saving; right padding; the slow tokenizer; pad token = unk token; model_max_length = L;
facebook/opt-125m and 512 as the script's defaults.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from sentencepiece import SentencePieceProcessor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sft_app.config.schema.app import AppConfig, register_schema, to_typed
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.embeddings import fit_model_to_tokenizer
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.save_pretrained import save_for_serving
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan

MakeCheckpoint = Callable[..., ModelConfig]
Train = Callable[..., Path]
L0 = 64


def recipe(*overrides: str) -> AppConfig:
    register_schema()
    with initialize_config_module("sft_app.conf", version_base="1.3"):
        return to_typed(compose("config", ["experiment=fastchat_vicuna", *overrides]))


Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase, RopePlan, TokenizerPlan]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint, sentencepiece_model: Train) -> Callable[[str], str]:
    """A tiny Llama or OPT with a sentencepiece tokenizer.model and nothing else beside it."""

    def make(family: str) -> str:
        model = make_checkpoint(family, vocab_size=1200)
        if not (Path(model.name_or_path) / "tokenizer.model").is_file():
            sentencepiece_model(Path(model.name_or_path))
        return model.name_or_path

    return make


def load(path: str, length: int) -> Loaded:
    config = recipe(f"model.name_or_path={path}", f"context_length={length}")
    pretrained = load_pretrained_config(config.model)
    rope_plan = plan_rope(pretrained, config.context_length, config.rope)
    model = load_model(config.model, pretrained, rope_plan)
    tokenizer, tokenizer_plan = load_tokenizer(config.tokenizer, config.model, pretrained)
    fit_model_to_tokenizer(model, tokenizer, tokenizer_plan)
    return model, tokenizer, rope_plan, tokenizer_plan


def test_the_scripts_defaults() -> None:
    config = recipe()
    assert config.model.name_or_path == "facebook/opt-125m"
    assert config.context_length == config.tokenizer.model_max_length == 512


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 500, 1000])
def test_rule_1_linear_rope_with_the_ceiling_of_the_ratio(
    checkpoint: Callable[[str], str], length: int
) -> None:
    model, _, plan, _ = load(checkpoint("llama"), length)
    parameters = model.config.rope_parameters
    if length > L0:
        assert parameters["rope_type"] == "linear"
        assert parameters["factor"] == plan.factor == float(math.ceil(length / L0))
    else:
        assert parameters["rope_type"] == "default" and plan.factor is None
    expected = torch.tensor([10_000 ** (-2 * i / 8) / (plan.factor or 1) for i in range(4)])
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_rule_1_leaves_opt_alone_within_its_table(checkpoint: Callable[[str], str]) -> None:
    model, _, plan, _ = load(checkpoint("opt"), 64)
    assert not plan.changed and model.config.max_position_embeddings == 64


def test_rule_2_the_cache_is_off_in_training_and_on_in_what_is_saved(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    for family in ("llama", "opt"):
        model, tokenizer, rope_plan, tokenizer_plan = load(checkpoint(family), 64)
        assert model.config.use_cache is False
        save_for_serving(model, tokenizer, rope_plan, tokenizer_plan, tmp_path / family)
        assert json.loads((tmp_path / family / "config.json").read_text())["use_cache"] is True
        assert AutoModelForCausalLM.from_pretrained(tmp_path / family).config.use_cache is True


def test_rule_3_padding_is_on_the_right(checkpoint: Callable[[str], str]) -> None:
    _, tokenizer, _, _ = load(checkpoint("llama"), 64)
    assert tokenizer.padding_side == "right"
    short, long = tokenizer(["in", "in the end"], padding=True)["input_ids"]
    assert short[-1] == tokenizer.pad_token_id != long[-1]


def test_rule_4_the_slow_tokenizer_is_the_sentencepiece_library(
    checkpoint: Callable[[str], str], real_text: list[str]
) -> None:
    path = checkpoint("llama")
    _, tokenizer, _, plan = load(path, 64)
    library = SentencePieceProcessor(model_file=f"{path}/tokenizer.model")
    assert "sentencepiece" in plan.backend
    for text in real_text[:50]:
        assert tokenizer(text)["input_ids"] == [library.bos_id(), *library.encode(text)]


def test_rule_5_the_pad_token_is_the_unknown_token(checkpoint: Callable[[str], str]) -> None:
    for family in ("llama", "opt"):
        model, tokenizer, _, _ = load(checkpoint(family), 64)
        assert tokenizer.pad_token == tokenizer.unk_token == "<unk>"
        assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.unk_token_id


def test_rule_6_model_max_length_is_the_wanted_length(checkpoint: Callable[[str], str]) -> None:
    _, tokenizer, _, _ = load(checkpoint("llama"), 500)
    assert tokenizer.model_max_length == 500


def test_what_it_saves_answers_alike_for_plain_transformers(
    checkpoint: Callable[[str], str], real_text: list[str], tmp_path: Path
) -> None:
    model, tokenizer, rope_plan, tokenizer_plan = load(checkpoint("llama"), 200)
    save_for_serving(model, tokenizer, rope_plan, tokenizer_plan, tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in real_text[:20]:
        ids = tokenizer(text, truncation=True, return_tensors="pt")["input_ids"]
        assert torch.equal(ids[0], again(text, return_tensors="pt")["input_ids"][0][:200])
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, reloaded(ids, use_cache=False).logits)
