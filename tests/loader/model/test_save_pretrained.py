"""What is saved is what was there: names, dtypes, numbers, generation settings, files, old keys.

The sources are checkpoints as published (tests/loader/published.py), and nothing is trained, so
every difference is one that saving made. The same directories go through other readers in
tests/readers.
"""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ProcessorMixin

from sft_app.common.errors import ConfigError
from sft_app.training.precision import round_weights
from tests.loader.published import GENERATION, write_published
from tests.loader.train_and_save import Saved, save_again

FAMILIES = ["llama-3.1", "gemma-2", "gemma-3-1b", "gemma-3-4b", "olmo-3", "qwen3-moe", "granite-4",
            "glm-4.5"]  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Family -> (directory as published, what is saved again)."""

    @cache
    def make(family: str) -> tuple[Path, Saved]:
        root = tmp_path_factory.mktemp("published")
        source = write_published(family, root / "source")
        for name in ("preprocessor_config.json", "chat_template.json"):
            (source / name).write_text(f'{{"of": "{family}"}}')
        return source, save_again(source, root / "saved")

    return make


def json_of(directory: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((directory / name).read_text())
    return read


@pytest.mark.parametrize("family", FAMILIES)
def test_names_dtypes_and_numbers_are_those_of_the_source(published: Any, family: str) -> None:
    source, saved = published(family)
    before, after = (load_file(d / "model.safetensors") for d in (source, saved.directory))
    assert before.keys() == after.keys()
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_router_biases_stay_float32_among_bfloat16(published: Any) -> None:
    """In 16 bits nearly every token would be sent to other experts."""
    _, saved = published("glm-4.5")
    stored = load_file(saved.directory / "model.safetensors")
    biases = {n: t for n, t in stored.items() if n.endswith("e_score_correction_bias")}
    assert len(biases) == 2
    for name, bias in biases.items():
        assert bias.dtype == torch.float32
        assert not torch.equal(bias, bias.to(torch.bfloat16).float()), f"{name}: a poor test"
    assert "4 of them float32: saved as they came" in str(saved.weights)


def test_what_is_measured_is_rounded_like_what_is_saved() -> None:
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.fill_(1 / 3)
        layer.bias.fill_(1 / 3)
    round_weights(layer, torch.bfloat16, {"bias": torch.float32})
    assert layer.weight[0, 0].item() == torch.tensor(1 / 3).bfloat16().item()
    assert layer.bias[0].item() == torch.tensor(1 / 3).item()


def test_without_a_dtype_in_config_json_the_files_dtype_is_saved(tmp_path: Path) -> None:
    source = write_published("mistral-nemo", tmp_path / "source", torch_dtype=None)
    saved = save_again(source, tmp_path / "saved")
    stored = load_file(saved.directory / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert json_of(saved.directory, "config.json")["dtype"] == "bfloat16"


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in GENERATION])
def test_published_generation_settings_survive(published: Any, family: str) -> None:
    _, saved = published(family)
    after = json_of(saved.directory, "generation_config.json")
    for key, value in GENERATION[family].items():
        if key == "eos_token_id":
            ids = value if isinstance(value, list) else [value]
            assert after[key][: len(ids)] == ids, "an end was lost"
        else:
            assert after[key] == value
    assert saved.generation.changes == ()


@pytest.mark.parametrize(
    ("stated", "kept", "told"),
    [
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.6},
         {"do_sample": True, "temperature": 0.9, "top_p": 0.6}, "do_sample set to true"),
        ({"do_sample": True, "top_k": 64, "early_stopping": True, "my_note": 5},
         {"do_sample": True, "top_k": 64, "my_note": 5}, "early_stopping=True dropped"),
        ({"pad_token_id": -1, "top_k": 20, "do_sample": True},
         {"top_k": 20, "do_sample": True}, "pad_token_id=-1 dropped"),
    ],
)  # fmt: skip
def test_what_contradicts_is_dropped_alone_and_told(
    tmp_path: Path, stated: dict[str, Any], kept: dict[str, Any], told: str
) -> None:
    source = write_published("mistral-nemo", tmp_path / "source")
    (source / "generation_config.json").write_text(json.dumps(stated))
    saved = save_again(source, tmp_path / "saved")
    after = json_of(saved.directory, "generation_config.json")
    assert {key: after[key] for key in kept} == kept
    assert told in str(saved.generation) and "early_stopping" not in after


def test_a_generation_config_that_cannot_be_read_is_refused_before_training(tmp_path: Path) -> None:
    source = write_published("mistral-nemo", tmp_path / "source")
    (source / "generation_config.json").write_text('{"top_k": ')
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        save_again(source, tmp_path / "saved")


def test_files_for_others_are_copied(published: Any) -> None:
    source, saved = published("gemma-3-4b")
    for name in ("preprocessor_config.json", "chat_template.json"):
        assert (saved.directory / name).read_text() == (source / name).read_text()


def test_the_sentencepiece_model_is_that_of_the_tokenizer(
    published: Any, sentencepiece_model: Any, tmp_path: Path
) -> None:
    """A converter would take the model's own for the vocabulary of another tokenizer."""
    file = sentencepiece_model(tmp_path, vocab_size=400)
    source = shutil.copytree(published("llama-3.1")[0], tmp_path / "source")
    (source / "tokenizer.model").write_bytes(b"of another vocabulary")
    saved = save_again(source, tmp_path / "saved", tokenizer=tmp_path)
    assert (saved.directory / "tokenizer.model").read_bytes() == file.read_bytes()
    file.rename(tmp_path / "spiece.model")
    again = save_again(source, tmp_path / "again", tokenizer=tmp_path)
    assert not (again.directory / "tokenizer.model").exists()


def test_the_tokenizer_says_nothing_of_this_machine_and_names_specials_for_both_versions(
    published: Any,
) -> None:
    _, saved = published("llama-3.1")
    settings = json_of(saved.directory, "tokenizer_config.json")
    assert not {"local_files_only", "is_local", "name_or_path", "extra_special_tokens"} & set(
        settings
    )
    assert settings["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]


def test_layers_that_are_not_carried_over_are_no_longer_counted(tmp_path: Path) -> None:
    source = write_published("glm-4.5", tmp_path / "source")
    file = source / "model.safetensors"
    extra = {"model.layers.46.eh_proj.weight": torch.zeros(4, 4)}
    save_file(load_file(file) | extra, file, metadata={"format": "pt"})
    saved = save_again(source, tmp_path / "saved")
    assert saved.weights.dropped == {"model.layers.46.": 1}
    assert json_of(saved.directory, "config.json")["num_nextn_predict_layers"] == 0


def test_towers_are_frozen_and_saved_untouched(published: Any) -> None:
    _, saved = published("gemma-3-4b")
    trained = {n for n, p in saved.model.named_parameters() if p.requires_grad}
    frozen = {n for n, p in saved.model.named_parameters() if not p.requires_grad}
    assert any("language_model" in n for n in trained)
    assert frozen and all("vision_tower" in n or "multi_modal_projector" in n for n in frozen)
    assert "Gemma3ForConditionalGeneration: text alone is trained" in str(saved.weights)


def test_old_readers_find_the_source_s_own_words(published: Any) -> None:
    """Each of these is an error, or a rope lost in silence, in transformers 4.57."""
    olmo = json_of(published("olmo-3")[1].directory, "config.json")
    assert olmo["rope_theta"] == 5e5 and olmo["rope_scaling"]["rope_type"] == "yarn"
    gemma = json_of(published("gemma-3-4b")[1].directory, "config.json")["text_config"]
    assert gemma["rope_scaling"]["rope_type"] == "linear" and gemma["rope_theta"] == 1e6
    assert gemma["rope_local_base_freq"] == 1e4
    assert json_of(published("qwen3-moe")[1].directory, "config.json")["num_experts"] == 4
    granite = json_of(published("granite-4")[1].directory, "config.json")
    assert granite["layer_types"] == ["mamba", "attention"]
    assert granite["torch_dtype"] == "bfloat16"


def test_code_that_is_not_saved_is_not_named(tmp_path: Path) -> None:
    """As Phi-3 was published: with code that transformers has taken over since."""
    source = write_published("phi-3-128k", tmp_path / "source")
    code = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    (source / "config.json").write_text(
        json.dumps(json_of(source, "config.json") | {"auto_map": code})
    )
    saved = save_again(source, tmp_path / "saved")
    settings = json_of(saved.directory, "config.json")
    assert "auto_map" not in settings
    assert settings["rope_scaling"]["type"] == "longrope", "for readers before version 5"
    assert not any("before 5" in warning for warning in saved.rope.warnings)


def test_old_names_are_written_for_sources_that_never_had_them(tmp_path: Path) -> None:
    """What transformers v5 saved itself knows the new names only."""
    first = save_again(write_published("qwen3-moe", tmp_path / "source"), tmp_path / "first")
    config = json_of(first.directory, "config.json")
    for old in ("num_experts", "torch_dtype", "rope_theta", "rope_scaling"):
        config.pop(old, None)
    (first.directory / "config.json").write_text(json.dumps(config))
    second = json_of(save_again(first.directory, tmp_path / "second").directory, "config.json")
    assert second["num_experts"] == second["num_local_experts"] == 4
    assert (second["torch_dtype"], second["rope_theta"]) == ("bfloat16", 1e6)


@pytest.mark.parametrize("further", [False, True], ids=["one", "several"])
def test_a_processor_asks_as_the_model_was_trained(tmp_path: Path, further: bool) -> None:
    """transformers' processors take chat_template.json, which was copied, before the other."""
    source = write_published("gemma-3-4b", tmp_path / "source")
    (source / "chat_template.json").write_text('{"chat_template": "OLD"}')
    (source / "processor_config.json").write_text(
        '{"processor_class": "Gemma3Processor", "chat_template": "OLD"}'
    )
    if further:
        (source / "chat_template.jinja").write_text("{{ messages[0].content }}</s>")
        (source / "additional_chat_templates").mkdir()
        (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    saved = save_again(source, tmp_path / "saved")
    trained = saved.tokenizer.chat_template
    read, _ = ProcessorMixin.get_processor_dict(saved.directory)
    assert read["chat_template"] == trained
    (saved.directory / "processor_config.json").unlink()
    read, _ = ProcessorMixin.get_processor_dict(saved.directory)
    found = read["chat_template"]
    assert (found["default"] if further else found) == trained


def test_added_tokens_are_listed_where_converters_look_for_them(
    sentencepiece_model: Any, tmp_path: Path
) -> None:
    """Beside a tokenizer.model, llama.cpp's finds them in tokenizer_config.json alone."""
    source = write_published("llama-3.1", tmp_path / "source")
    (source / "tokenizer.json").unlink()
    sentencepiece_model(source, vocab_size=400)
    marks = {str(400 + n): {"content": t, "special": True} for n, t in enumerate(("<a>", "<b>"))}
    settings = {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>", "bos_token": "<s>"}
    (source / "tokenizer_config.json").write_text(
        json.dumps({**settings, "unk_token": "<unk>", "added_tokens_decoder": marks})
    )
    saved = save_again(source, tmp_path / "saved").directory
    assert (saved / "tokenizer.model").is_file()
    listed = json_of(saved, "tokenizer_config.json")["added_tokens_decoder"]
    assert {number: token["content"] for number, token in listed.items()} == {
        "0": "<unk>", "1": "<s>", "2": "</s>", "400": "<a>", "401": "<b>",
    }  # fmt: skip
