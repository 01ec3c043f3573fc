"""Shared fixtures: composed configurations, a tiny model with a tokenizer, a small chat file."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sft_app.config.schema.app import AppConfig, register_schema, to_typed

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def compose() -> Callable[..., AppConfig]:
    """compose("rope=yarn", ...) -> the typed configuration, as the command would see it."""
    import hydra

    register_schema()

    def composed(*overrides: str) -> AppConfig:
        with hydra.initialize_config_module("sft_app.conf", version_base="1.3"):
            return to_typed(hydra.compose("config", overrides=list(overrides)))

    return composed


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_command("sft-train", "a=b", cwd=...) runs a console script of this environment."""

    def run(
        *command: str, cwd: Path, timeout: float = 180, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(command[0])
        return subprocess.run(
            [str(program), *command[1:]],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
            check=False,
        )

    return run


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (2 layers, 64 positions) and a byte-level tokenizer with ChatML, saved."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHATML,
        model_max_length=64,
    )
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


MODEL_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture(scope="session")
def model_with_code(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, of a family that transformers does not have and its own code defines."""
    directory = tmp_path_factory.mktemp("models") / "own-llama"
    shutil.copytree(tiny_model, directory)
    (directory / "modeling_own.py").write_text(MODEL_CODE)
    classes = {"AutoConfig": "OwnConfig", "AutoModelForCausalLM": "OwnForCausalLM"}
    settings = json.loads((directory / "config.json").read_text()) | {
        "model_type": "own_llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {name: f"modeling_own.{own}" for name, own in classes.items()},
    }
    (directory / "config.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 ShareGPT conversations of 1 to 3 exchanges, in which letters are spelt out."""
    path = tmp_path_factory.mktemp("chat") / "chat.json"
    path.write_text(json.dumps(conversations(60, random.Random(0))), encoding="utf-8")
    return path


def conversations(count: int, random_source: random.Random) -> list[dict[str, object]]:
    return [{"id": f"c{i}", "conversations": _exchanges(random_source)} for i in range(count)]


def _exchanges(random_source: random.Random) -> Sequence[dict[str, str]]:
    turns = []
    for _ in range(random_source.randint(1, 3)):
        letters = "".join(random_source.choices("abcd", k=random_source.randint(2, 6)))
        turns.append({"from": "human", "value": f"spell {letters}"})
        turns.append({"from": "gpt", "value": " ".join(letters)})
    return turns
