"""What is saved serves with the rope it was trained with: each reader's formula, and its answer.

The formulas are stated as those projects apply them to a config.json (2026): vLLM's
`_get_and_verify_max_len`, SGLang's and FastChat's `get_context_length`, transformers v4's fields.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, PreTrainedTokenizerFast

from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.save_pretrained import save_for_serving
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer

MakeCheckpoint = Callable[..., ModelConfig]
Json = dict[str, Any]


def vllm_length(config: Json, tokenizer: Json) -> int:
    """The smallest stated length; times the factor, unless longrope or llama3; of yarn's original;
    Gemma 3 as stated; and never above the tokenizer's model_max_length."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length",
             "model_max_length", "max_sequence_length")  # fmt: skip
    length = min(config[name] for name in names if config.get(name))
    scaling = config.get("rope_scaling")
    if scaling and "gemma3" not in config["model_type"]:
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind not in ("su", "longrope", "llama3"):
            if kind == "yarn":
                length = scaling["original_max_position_embeddings"]
            length *= scaling.get("factor", 1.0)
    return int(min(length, tokenizer["model_max_length"]))


def sglang_length(config: Json) -> int:
    """The first stated length times the factor, which counts as 1 for llama3 and wherever
    `original_max_position_embeddings` stands beside it."""
    scaling = config.get("rope_scaling") or {}
    factor = scaling.get("factor", 1)
    if "original_max_position_embeddings" in scaling or scaling.get("rope_type") == "llama3":
        factor = 1
    for name in ("max_sequence_length", "seq_length", "max_seq_len", "model_max_length",
                 "max_position_embeddings"):  # fmt: skip
        if config.get(name) is not None:
            return int(factor * config[name])
    return 2048


def fastchat_length(config: Json) -> int:
    """The first stated length times the factor, whatever the method."""
    factor = (config.get("rope_scaling") or {}).get("factor", 1)
    for name in ("max_position_embeddings", "max_sequence_length", "seq_length", "max_seq_len",
                 "model_max_length"):  # fmt: skip
        if config.get(name) is not None:
            return int(factor * config[name])
    return 2048


def transformers_v4_rope(config: Json) -> tuple[str, float]:
    """(rope type, theta) as v4 reads them: it knows nothing of `rope_parameters`."""
    scaling = config.get("rope_scaling") or {}
    return scaling.get("rope_type", scaling.get("type", "default")), config["rope_theta"]


@pytest.fixture
def add_tokenizer() -> Callable[[Path], None]:
    def add(directory: Path) -> None:
        words = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}
        PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
        ).save_pretrained(directory)

    return add


def saved(
    checkpoint: ModelConfig, length: int, rope: RopeConfig, directory: Path
) -> tuple[Json, Json]:
    """(config.json, tokenizer_config.json) of a model that was extended and saved."""
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, length, rope)
    tokenizer, tokenizer_plan = load_tokenizer(
        TokenizerConfig(model_max_length=length), checkpoint, config
    )
    model = load_model(checkpoint, config, plan)
    save_for_serving(model, tokenizer, plan, tokenizer_plan, directory)
    read = [
        json.loads((directory / name).read_text())
        for name in ("config.json", "tokenizer_config.json")
    ]
    reread = AutoConfig.from_pretrained(directory)
    assert _without_old_name(reread.rope_parameters) == _without_old_name(
        model.config.rope_parameters
    )
    return read[0], read[1]


def _without_old_name(parameters: Json) -> Json:
    """v5 keeps `type`, v4's name of `rope_type`, and reads it nowhere."""
    return {
        key: _without_old_name(value) if isinstance(value, dict) else value
        for key, value in parameters.items()
        if key != "type"
    }


@pytest.mark.parametrize(
    ("family", "method", "length", "effective"),
    [
        ("llama", "linear", 200, 256),
        ("llama", "ntk", 128, 128),
        ("llama", "abf", 128, 128),
        ("llama", "yarn", 128, 128),
        ("llama", "llama3", 128, 128),
        ("llama", "none", 128, 128),
        ("llama", "auto", 64, 64),
        ("vicuna-16k", "auto", 128, 256),
        ("vicuna-16k", "auto", 512, 512),
        ("qwen2.5-yarn", "auto", 128, 256),
        ("qwen2.5-yarn", "auto", 512, 512),
        ("llama3.1", "auto", 128, 256),
        ("llama3.1", "auto", 512, 512),
        ("phi3-longrope", "auto", 256, 256),
        ("neox", "auto", 128, 128),
    ],
)
def test_every_reader_finds_the_effective_context_and_the_rope(
    make_checkpoint: MakeCheckpoint,
    add_tokenizer: Callable[[Path], None],
    tmp_path: Path,
    family: str,
    method: str,
    length: int,
    effective: int,
) -> None:
    checkpoint = make_checkpoint(family)
    add_tokenizer(Path(checkpoint.name_or_path))
    rope = RopeConfig(
        method=RopeMethod(method),
        factor=None,
        theta=1e6 if method == "abf" else None,
    )
    config, tokenizer = saved(checkpoint, length, rope, tmp_path)
    assert config["use_cache"] is True
    assert tokenizer["model_max_length"] == effective
    assert isinstance(config["max_position_embeddings"], int)
    assert vllm_length(config, tokenizer) == effective
    assert sglang_length(config) == effective
    parameters = config["rope_parameters"]
    if parameters["rope_type"] in ("default", "linear"):
        assert fastchat_length(config) == effective
    assert transformers_v4_rope(config) == (parameters["rope_type"], parameters["rope_theta"])


def test_gemma3_states_its_effective_context_and_both_bases(
    make_checkpoint: MakeCheckpoint, add_tokenizer: Callable[[Path], None], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("gemma3-scaled")
    add_tokenizer(Path(checkpoint.name_or_path))
    config, tokenizer = saved(checkpoint, 128, RopeConfig(), tmp_path)
    assert vllm_length(config, tokenizer) == 128
    assert config["rope_scaling"] == {"rope_type": "linear", "type": "linear", "factor": 16.0}
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)


def test_old_readers_of_phi3_find_exactly_the_fields_they_accept(
    make_checkpoint: MakeCheckpoint, add_tokenizer: Callable[[Path], None], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("phi3-longrope")
    add_tokenizer(Path(checkpoint.name_or_path))
    config, _ = saved(checkpoint, 256, RopeConfig(), tmp_path)
    assert set(config["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    assert config["original_max_position_embeddings"] == 64
