"""The lines that serve a model, its card, and what a GGUF file must say about positions."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import yaml

from sft_app.common.errors import ConfigError
from sft_app.export import main
from sft_app.records.result import (
    Evaluation,
    LossMeasurement,
    RunResult,
    Status,
    TaskScore,
)
from sft_app.serving.export_gguf import find_converter
from sft_app.serving.gguf_positions import RopeKeys, wrong_rope
from sft_app.serving.model_card import write_model_card
from sft_app.serving.serving_lines import serving_lines

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 8192,
}


def model_with(rope: dict[str, object], directory: Path, length: int = 32768) -> Path:
    directory.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "rope_parameters": rope,
        "max_position_embeddings": length,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))
    return directory


def test_every_engine_is_told_the_length_and_llama_cpp_the_scaling(tmp_path: Path) -> None:
    lines = {line.engine: line for line in serving_lines(model_with(YARN, tmp_path / "m"))}
    assert lines["vLLM"].command == f"vllm serve {tmp_path / 'm'} --max-model-len 32768"
    assert lines["SGLang"].command.endswith("--context-length 32768")
    assert lines["transformers"].command == f"transformers serve {tmp_path / 'm'}"
    assert lines["llama.cpp"].command.endswith(
        "-c 32768 --rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 8192"
    )


@pytest.mark.parametrize(
    ("rope", "stated", "vllm", "llama"),
    [
        ({"type": "linear", "factor": 4.0}, 32768, 131072, "--rope-scaling linear --rope-scale 4"),
        ({"type": "dynamic", "factor": 4.0}, 32768, 32768, "-c 131072"),
        (YARN, 8192, 32768, "--rope-scale 4 --yarn-orig-ctx 8192"),
        ({"rope_type": "llama3", "factor": 8.0}, 131072, 131072, "-c 131072"),
        (None, 8192, 8192, "-c 8192"),
    ],
    ids=["linear", "dynamic", "yarn", "llama3", "none"],
)
@pytest.mark.parametrize("tokenizer", [None, 10**30, 2**20])
def test_models_that_others_have_saved_are_served_at_the_length_they_reach(
    tmp_path: Path, rope: dict[str, object] | None, stated: int, vllm: int, llama: str,
    tokenizer: int | None,
) -> None:  # fmt: skip
    """As transformers 4 writes them, and with tokenizers that state no length or a longer one."""
    config = {"model_type": "llama", "rope_scaling": rope, "max_position_embeddings": stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        text = json.dumps({"model_max_length": tokenizer})
        (tmp_path / "tokenizer_config.json").write_text(text)
    lines = {line.engine: line.command for line in serving_lines(tmp_path)}
    assert lines["vLLM"].endswith(f"--max-model-len {vllm}")
    assert lines["llama.cpp"].endswith(llama)


def test_gemma_3_states_the_length_after_the_scaling(tmp_path: Path) -> None:
    rope = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {}}
    text = {"model_type": "gemma3_text", "rope_parameters": rope, "max_position_embeddings": 131072}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text}))
    (line, *_) = serving_lines(tmp_path)
    assert line.command.endswith("--max-model-len 131072")


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("tokenizer_config.json", '{"model_max', "tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json cannot be read"),
        ("config.json", '{"rope_parameters": "yarn"}', "states a rope that is none"),
        ("config.json", '{"rope_scaling": {"factor": "4"}}', "states a rope that is none"),
    ],
)
def test_files_that_say_nothing_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, told: str
) -> None:
    model = model_with(YARN, tmp_path / "m")
    (model / file).write_text(text)
    assert main(["commands", str(model)]) == 2
    assert told in capsys.readouterr().err


def test_llama_cpp_is_told_what_it_reads_from_no_file(tmp_path: Path) -> None:
    rope = YARN | {"beta_fast": 16.0, "beta_slow": 1}
    (line,) = [
        x for x in serving_lines(model_with(rope, tmp_path / "m")) if x.engine == "llama.cpp"
    ]
    assert line.command.endswith("--yarn-orig-ctx 8192 --yarn-beta-fast 16")
    rope = YARN | {"attention_factor": 1.0}
    (line,) = [
        x for x in serving_lines(model_with(rope, tmp_path / "n")) if x.engine == "llama.cpp"
    ]
    assert "does not know this rope" in line.note
    rope = YARN | {"attention_factor": 1 + 0.1 * math.log(4)}
    (line,) = [
        x for x in serving_lines(model_with(rope, tmp_path / "o")) if x.engine == "llama.cpp"
    ]
    assert line.note == "after sft-export gguf"


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"attention_factor": 1.0}, "multiplies attention by 1.1386"),
        ({"attention_factor": 1 + 0.1 * math.log(4)}, None),
        ({"truncate": False}, "whole dimensions"),
        ({"beta_fast": 16.0}, None),
    ],
)
def test_a_yarn_that_llama_cpp_computes_otherwise_is_no_export(
    tmp_path: Path, changed: dict[str, object], wrong: str | None
) -> None:
    found = wrong_rope(keys(), model_with(YARN | changed, tmp_path / "m"))
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def test_frequency_factors_must_be_the_models(tmp_path: Path) -> None:
    """Llama 3.1: wavelengths below 8192 / 4 keep theirs, those above 8192 are divided by 8."""
    rope = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    model = model_with(rope, tmp_path / "m")
    wavelengths = [2 * math.pi * 500000.0 ** (i / 64) for i in range(64)]
    right = []
    for length in wavelengths:
        smooth = min(1.0, max(0.0, (8192 / length - 1.0) / (4.0 - 1.0)))
        right.append(1 / ((1 - smooth) / 8.0 + smooth))
    stated = {"freq_base": 500000.0, "scaling": None, "factor": None, "original_context": None}
    assert wrong_rope(keys(**stated, divisors={"rope_freqs": right}), model) is None
    found = wrong_rope(keys(**stated, divisors={"rope_freqs": [1.0] * 64}), model)
    assert found is not None and "are not the model's" in found
    found = wrong_rope(keys(**stated), model)
    assert found is not None and "no frequency factors" in found


@pytest.mark.parametrize("what", ["commands", "gguf"])
def test_an_adapter_is_no_model_to_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    adapter = model_with(YARN, tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text("{}")
    assert main([what, str(adapter)]) == 2
    assert "is an adapter: name the run" in capsys.readouterr().err


def test_what_an_engine_does_not_know_is_said(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = model_with(dynamic, tmp_path / "m", 16384)
    (model / "tokenizer_config.json").write_text('{"model_max_length": 32768}')
    lines = {line.engine: line for line in serving_lines(model)}
    assert lines["vLLM"].command.endswith("--max-model-len 16384"), "where its cache ends"
    assert lines["SGLang"].command.endswith("--context-length 32768")
    assert "does not know this rope" in lines["llama.cpp"].note


def keys(**changed: object) -> RopeKeys:
    right = {
        "architecture": "llama", "context_length": 32768, "freq_base": 10000.0, "scaling": "yarn",
        "factor": 4.0, "original_context": 8192,
    }  # fmt: skip
    return RopeKeys(**(right | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, None),
        ({"scaling": None, "factor": None}, "scaling is None"),
        ({"factor": 2.0}, "scaling is yarn 2.0"),
        ({"original_context": 32768}, "original context is 32768"),
        ({"freq_base": 500000.0}, "frequency base"),
    ],
)
def test_a_gguf_file_must_say_what_the_model_says(
    tmp_path: Path, changed: dict[str, object], wrong: str | None
) -> None:
    found = wrong_rope(keys(**changed), model_with(YARN, tmp_path / "m"))
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def test_without_a_converter_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setattr("sft_app.serving.export_gguf.is_installed", lambda name: False)
    with pytest.raises(ConfigError, match=r"no converter was found: .*--converter"):
        find_converter(None)
    with pytest.raises(ConfigError, match="is no converter"):
        find_converter(tmp_path)
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert find_converter(tmp_path)[1] == str(tmp_path / "convert_hf_to_gguf.py")


def test_the_card_says_what_it_is_made_from_and_what_came_out(tmp_path: Path) -> None:
    model_with(YARN, tmp_path / "model")
    loss = LossMeasurement(loss=1.5, perplexity=4.48, tokens=10, examples=2)
    score = {"4096": TaskScore(score=0.75, samples=4)}
    after = Evaluation(heldout=loss, tasks={"passkey": score}, effective_length={"nolima_85": 4096})
    RunResult(
        status=Status.completed, started_at="2026-01-01T00:00:00+00:00", config_hash="a", seed=1,
        context_length=32768, model="org/base", rope_method="yarn", rope_factor=4.0,
        evaluation_after=after, seconds={"save": 1.0},
    ).write(tmp_path)  # fmt: skip
    (tmp_path / "config.yaml").write_text("data: {train: chat.json}\nadapter: {method: lora}\n")
    path = write_model_card(tmp_path)
    assert path is not None
    text = path.read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["base_model"] == "org/base" and header["license"] == "other"
    assert "RoPE: yarn, factor 4" in text
    assert "method: lora, merged" in text
    assert "| passkey at 4,096 tokens |  | 75% |" in text
    assert "vllm serve ./model " in text
    assert write_model_card(tmp_path / "nothing") is None


def test_a_run_that_is_made_longer_and_fails_does_not_describe_the_model_of_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its steps and settings are not those of the model that stands there."""
    model_with(YARN, tmp_path / "model")
    (tmp_path / "config.yaml").write_text("data: {train: chat.json}\n")
    result = RunResult(
        status=Status.completed, started_at="2026-01-01T00:00:00+00:00", config_hash="a", seed=1,
        context_length=32768, model="org/base", steps=100, seconds={"save": 1.0},
    )  # fmt: skip
    result.write(tmp_path)
    path = write_model_card(tmp_path)
    assert path is not None
    before = path.read_text()
    assert main(["commands", str(tmp_path)]) == 0
    assert not capsys.readouterr().err
    dataclasses.replace(result, status=Status.failed, steps=120, seconds={"train": 9.0}).write(
        tmp_path
    )
    assert write_model_card(tmp_path) is None
    assert path.read_text() == before
    assert main(["commands", str(tmp_path)]) == 0
    assert "has saved no model (status failed): model/ is what" in capsys.readouterr().err


@pytest.mark.parametrize(("step", "told"), [(40, True), (100, False), (None, False)])
def test_the_card_says_which_step_the_weights_are_of(
    tmp_path: Path, step: int | None, told: bool
) -> None:
    model_with(YARN, tmp_path / "model")
    RunResult(
        status=Status.completed, started_at="2026-01-01T00:00:00+00:00", config_hash="a", seed=1,
        context_length=32768, model="org/base", steps=100, weights_of_step=step,
        seconds={"save": 1.0},
    ).write(tmp_path)  # fmt: skip
    (tmp_path / "config.yaml").write_text("data: {train: chat.json}\n")
    path = write_model_card(tmp_path)
    assert path is not None
    assert ("- weights: those after step 40" in path.read_text()) == told


def test_a_card_leaves_the_building_without_the_paths_of_this_machine(tmp_path: Path) -> None:
    model_with(YARN, tmp_path / "model")
    RunResult(
        status=Status.completed, started_at="2026-01-01T00:00:00+00:00", config_hash="a", seed=1,
        context_length=32768, model="/home/someone/secret/base-7b", seconds={"save": 1.0},
    ).write(tmp_path)  # fmt: skip
    sources = f"[{{path: /home/someone/secret/a.json}}, org/data, {tmp_path}/b.jsonl]"
    (tmp_path / "config.yaml").write_text(f"data: {{train: {sources}}}\n")
    path = write_model_card(tmp_path)
    assert path is not None
    text = path.read_text()
    assert "base model: `base-7b`" in text
    assert "data: `a.json`, `org/data`, `b.jsonl`" in text
    assert "/home/" not in text and str(tmp_path) not in text


@pytest.mark.parametrize("what", ["gguf", "commands"])
@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_cannot_be_read_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, text: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    assert main([what, str(tmp_path)]) == 2
    assert "config.json cannot be read: " in capsys.readouterr().err
