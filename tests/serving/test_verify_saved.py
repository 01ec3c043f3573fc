"""The verification of a saved model finds what was damaged, and nothing in what was not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Phi3Config

from sft_app.loader.rope.legacy_keys import add_legacy_rope_keys
from sft_app.loader.tokenizer.template_variables import fix_variables
from sft_app.records.manifest import write_manifest
from sft_app.serving.expectations import probe_logits, rope_facts, write_expectations
from sft_app.serving.fresh_process import verify_in_fresh_process
from sft_app.serving.verify_saved import verify_saved

CPU = torch.device("cpu")
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def expected(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "verification"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    write_expectations(
        folder, model, tokenizer, probe_logits(model, tokenizer, CPU),
        serving_length=64, saved_template=tokenizer.chat_template, computed_in="float32",
    )  # fmt: skip
    return folder


def test_what_was_saved_is_found_as_it_was(tiny_model: Path, expected: Path) -> None:
    verdict = verify_saved(tiny_model, expected)
    assert verdict.passed, verdict.sentence()
    assert set(verdict.checks) == {"loads", "cache", "special tokens", "positions", "tokenizer",
                                   "chat template", "generation", "logits"}  # fmt: skip


def test_code_that_a_model_carries_runs_where_it_is_trusted(model_with_code: Path) -> None:
    """What was trained with model.trust_remote_code was said to be something else, each time."""
    verdict = verify_in_fresh_process(model_with_code, None, trust_remote_code=True)
    assert verdict.passed, verdict.sentence()
    verdict = verify_in_fresh_process(model_with_code, None)
    assert not verdict.passed
    assert "add --trust-remote-code" in verdict.checks["loads"].detail


def test_any_directory_can_be_looked_at(tiny_model: Path) -> None:
    assert verify_saved(tiny_model, None).passed


def test_a_family_whose_configuration_has_no_word_for_the_cache_passes(
    tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 512, "vocab_size": 300}
    config = AutoConfig.for_model("openai-gpt", eos_token_id=tokenizer.eos_token_id, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    verdict = verify_saved(tmp_path, None)
    assert verdict.passed, verdict.sentence()


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        (LlamaConfig, {"rope_type": "linear", "factor": 2.0}),
        (LlamaConfig, {"rope_type": "dynamic", "factor": 2.0}),
        (Phi3Config, {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
                      "original_max_position_embeddings": 4096}),
    ],
    ids=["linear", "dynamic", "longrope"],
)  # fmt: skip
def test_the_second_name_that_older_readers_need_is_no_difference(
    tmp_path: Path, family: type[LlamaConfig], rope: dict[str, object]
) -> None:
    trained = family(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=8192,
        pad_token_id=0, rope_parameters={"rope_theta": 1e4, **rope},
    )  # fmt: skip
    trained.save_pretrained(tmp_path)
    assert add_legacy_rope_keys(tmp_path)
    saved = AutoConfig.from_pretrained(tmp_path)
    assert saved.rope_parameters["type"] == rope["rope_type"], "what this test is about"
    assert rope_facts(saved) == rope_facts(trained)


def edit(name: str, **values: object) -> Damage:
    def change(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_a_weight(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.2
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def drop_a_weight(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def flip_a_bit(directory: Path) -> None:
    """The lowest one of one number of the last layer: no logit differs by a thousandth."""
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)


def change_a_line_of_the_template(directory: Path) -> None:
    """One that no conversation of the probe comes by."""
    path = directory / "chat_template.jinja"
    path.write_text(path.read_text() + "{% if tools %}{{ tools }}{% endif %}")


def forget_the_end(directory: Path) -> None:
    path = directory / "generation_config.json"
    settings = json.loads(path.read_text())
    del settings["eos_token_id"]
    path.write_text(json.dumps(settings))


def change_a_token(directory: Path) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["o"] = vocab["o"], vocab["a"]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (change_a_weight, "logits"),
        (drop_a_weight, "loads"),
        (change_a_token, "tokenizer"),
        (edit("config.json", max_position_embeddings=128), "positions"),
        (edit("config.json", rope_parameters={"rope_type": "linear", "factor": 2.0,
                                              "rope_theta": 10000.0}), "positions"),
        (edit("generation_config.json", use_cache=False), "cache"),
        (edit("generation_config.json", temperature=0.5, do_sample=True), "generation"),
        (edit("config.json", pad_token_id=3), "generation"),
        (edit("tokenizer_config.json", eos_token="<|pad|>"), "special tokens"),
        (forget_the_end, "special tokens"),
        (change_a_line_of_the_template, "chat template"),
        (lambda directory: (directory / "chat_template.jinja").unlink(), "chat template"),
        (flip_a_bit, "files"),
        (lambda directory: (directory / "config.json").unlink(), "loads"),
    ],
    ids=["weight", "missing weight", "token", "length", "rope", "cache", "sampling", "pad",
         "eos", "no end", "template", "no template", "bit", "config"],
)  # fmt: skip
def test_damage_is_found_and_named(
    tiny_model: Path, expected: Path, tmp_path: Path, damage: Damage, check: str
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    write_manifest(copy)
    damage(copy)
    verdict = verify_saved(copy, expected)
    assert not verdict.passed
    assert not verdict.checks[check].passed, verdict.sentence()
    assert not verdict.checks["files"].passed, verdict.sentence()


def test_an_adapter_beside_the_model_is_told(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text("{}")
    loads = verify_saved(tmp_path, None).checks["loads"]
    assert not loads.passed and "a whole model and an adapter" in loads.detail


def test_a_template_that_asks_for_the_date_is_the_same_on_another_day(
    tiny_model: Path, tmp_path: Path
) -> None:
    """What is trained has a fixed day, and what is saved the clock."""
    template = "{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for name, saved in (("same", template), ("other", template.replace("%Y", "%y"))):
        folder = tmp_path / name
        model.save_pretrained(folder)
        tokenizer.chat_template = saved
        tokenizer.save_pretrained(folder)
        tokenizer.chat_template = fix_variables(template, {}).training
        write_expectations(
            tmp_path / "verification", model, tokenizer, None,
            serving_length=64, saved_template=template, computed_in="float32",
        )  # fmt: skip
        assert verify_saved(folder, tmp_path / "verification").passed == (name == "same")
