"""Tiny random models, one per family, as their published configurations are shaped."""

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from sft_app.config.schema.model import ModelConfig

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ONE_KV = {**SMALL, "num_key_value_heads": 4}
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LONGROPE_LISTS = {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama3.1": (
        "llama",
        {
            **SMALL,
            "max_position_embeddings": 256,
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "vicuna-16k": (
        "llama",
        {
            **SMALL,
            "rope_scaling": {"type": "linear", "factor": 4.0},
            "max_sequence_length": 256,
        },
    ),
    "mistral-windowed": ("mistral", {**SMALL, "sliding_window": 16}),
    "qwen2": ("qwen2", {**SMALL, "rope_theta": 1e6}),
    "qwen2.5-yarn": (
        "qwen2",
        {
            **SMALL,
            "rope_theta": 1e6,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen3": ("qwen3", {**SMALL, "head_dim": 16}),
    "dynamic": ("llama", {**SMALL, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "gemma2": ("gemma2", {**SMALL, "head_dim": 8, "sliding_window": 16}),
    "gemma3": (
        "gemma3_text",
        {
            **SMALL,
            "head_dim": 8,
            "sliding_window": 16,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3-scaled": (
        "gemma3_text",
        {
            **SMALL,
            "head_dim": 8,
            "sliding_window": 16,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "phi": ("phi", {**ONE_KV, "partial_rotary_factor": 0.5}),
    "phi3-longrope": (
        "phi3",
        {
            **ONE_KV,
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 64,
            "rope_scaling": {"type": "longrope", **LONGROPE_LISTS},
        },
    ),
    "neox": ("gpt_neox", {**ONE_KV, "rotary_pct": 0.5}),
    "stablelm": ("stablelm", {**ONE_KV, "partial_rotary_factor": 0.25, "hidden_size": 64}),
    "mixtral": ("mixtral", {**SMALL, "num_local_experts": 2}),
    "glm4-moe": (
        "glm4_moe",
        {
            **SMALL,
            "head_dim": 8,
            "moe_intermediate_size": 16,
            "n_routed_experts": 2,
            "num_experts_per_tok": 1,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "num_nextn_predict_layers": 1,
        },
    ),
    "cohere2": (
        "cohere2",
        {
            **SMALL,
            "head_dim": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "falcon": (
        "falcon",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "alibi": False,
        },
    ),
    "falcon-alibi": (
        "falcon",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "alibi": True,
        },
    ),
    "opt": (
        "opt",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "dropout": 0.0,
        },
    ),
    "gpt2": ("gpt2", GPT),
    "gpt_neo": (
        "gpt_neo",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 64,
        },
    ),
    "gptj": ("gptj", {**GPT, "rotary_dim": 4}),
    "bloom": ("bloom", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": (
        "mpt",
        {"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "mamba": (
        "mamba",
        {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    ),
}


def tiny_config(family: str, **changes: Any) -> PretrainedConfig:
    """A fresh configuration; `changes` override its published shape."""
    if family == "gemma3-multimodal":
        model_type, text = FAMILIES["gemma3-scaled"]
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        return transformers.Gemma3Config(
            text_config={**text, "model_type": model_type, **changes},
            vision_config=vision,
            mm_tokens_per_image=4,
            image_token_index=90,
            boi_token_index=91,
            eoi_token_index=92,
        )
    model_type, values = FAMILIES[family]
    return AutoConfig.for_model(model_type, **{**values, **changes})


@pytest.fixture(scope="session")
def make_config() -> Callable[..., PretrainedConfig]:
    return tiny_config


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelConfig]:
    """Family name (and changes to its configuration) -> the ModelConfig of a saved checkpoint."""
    made: dict[str, Path] = {}

    def make(family: str, **changes: Any) -> ModelConfig:
        key = f"{family} {sorted(changes.items())}"
        if key not in made:
            directory = tmp_path_factory.mktemp("checkpoint")
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(tiny_config(family, **changes))
            model.save_pretrained(directory)
            made[key] = directory
        return ModelConfig(name_or_path=str(made[key]))

    return make


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """These models are too small to be shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_text() -> list[str]:
    """Paragraphs of real text with indentation and runs of spaces: Python's own library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    names = ("argparse", "json/decoder", "textwrap", "inspect", "calendar", "difflib", "this")
    texts = [(library / f"{name}.py").read_text(encoding="utf-8") for name in names]
    return [paragraph for text in texts for paragraph in text.split("\n\n") if paragraph.strip()]


@pytest.fixture(scope="session")
def sentencepiece_model(
    tmp_path_factory: pytest.TempPathFactory, real_text: list[str]
) -> Callable[..., Path]:
    """Train a tokenizer.model like Llama's: BPE, byte fallback, spaces kept, no normalisation."""

    def train(directory: Path | None = None, **settings: Any) -> Path:
        directory = directory or tmp_path_factory.mktemp("sentencepiece")
        arguments: dict[str, Any] = {
            "model_type": "bpe",
            "vocab_size": 1200,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "allow_whitespace_only_pieces": True,
            "split_digits": True,
            "character_coverage": 0.99995,
            "minloglevel": 2,
            "max_sentence_length": 100_000,
        }
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(real_text),
            model_prefix=str(directory / "tokenizer"),
            **{**arguments, **settings},
        )
        (directory / "tokenizer.vocab").unlink()
        return directory / "tokenizer.model"

    return train
