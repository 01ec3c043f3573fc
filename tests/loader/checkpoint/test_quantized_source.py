"""Quantised checkpoints: decoded exactly and trained as plain weights, or refused before anything.

The encodings are written here from the formats' definitions: FP8 E4M3 with one scale a block
(DeepSeek-V3), and MXFP4 of the OCP microscaling specification, 32 numbers of 4 bits a scale.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import plan_weights
from tests.loader.published import write_published
from tests.loader.train_and_save import save_again

BLOCK = 16
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def stated(directory: Path, quantization: dict[str, Any]) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps(config | {"quantization_config": quantization})
    )


def in_fp8(directory: Path) -> dict[str, torch.Tensor]:
    """Store every projection in FP8; return what the numbers mean."""
    file = directory / "model.safetensors"
    stored, meant = {}, {}
    for name, tensor in load_file(file).items():
        meant[name] = tensor
        if not name.endswith("_proj.weight"):
            stored[name] = tensor
            continue
        rows, columns = tensor.shape
        grid = tensor.float().reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scale = grid.abs().amax(dim=(1, 3), keepdim=True) / 448
        coded = (grid / scale).to(torch.float8_e4m3fn)
        stored[name] = coded.reshape(rows, columns)
        stored[f"{name}_scale_inv"] = scale.reshape(rows // BLOCK, columns // BLOCK)
        meant[name] = (coded.float() * scale).reshape(rows, columns)
    save_file(stored, file, metadata={"format": "pt"})
    stated(directory, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                       "weight_block_size": [BLOCK, BLOCK]})  # fmt: skip
    return meant


def in_mxfp4(directory: Path) -> dict[str, torch.Tensor]:
    """Store the experts in MXFP4 as gpt-oss does: transposed, two numbers a byte, low one first."""
    file = directory / "model.safetensors"
    stored, meant = {}, {}
    for name, tensor in load_file(file).items():
        meant[name] = tensor
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = tensor
            continue
        groups = tensor.float().transpose(1, 2).unflatten(-1, (-1, 32))
        exponent = torch.floor(torch.log2(groups.abs().amax(-1, keepdim=True))) - 2
        code = (groups / 2**exponent).unsqueeze(-1).sub(E2M1).abs().argmin(-1)
        stored[f"{name}_blocks"] = (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8)
        stored[f"{name}_scales"] = (exponent.squeeze(-1) + 127).to(torch.uint8)
        meant[name] = (E2M1[code] * 2**exponent).flatten(-2).transpose(1, 2)
    save_file(stored, file, metadata={"format": "pt"})
    stated(directory, {"quant_method": "mxfp4", "modules_to_not_convert": []})
    return meant


@pytest.mark.parametrize(
    ("family", "encode", "method"),
    [("mistral-nemo", in_fp8, "fp8"), ("gpt-oss", in_mxfp4, "mxfp4")],
)
def test_it_is_decoded_planned_and_saved_as_plain_weights(
    tmp_path: Path, family: str, encode: Any, method: str
) -> None:
    source = write_published(family, tmp_path / "source")
    meant = encode(source)
    saved = save_again(source, tmp_path / "saved")
    assert f"{method} in the checkpoint, decoded to plain weights" in str(saved.weights)
    assert saved.weights.num_tensors == len(meant)
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert after.keys() == meant.keys()
    for name, tensor in meant.items():
        assert after[name].dtype == torch.bfloat16
        torch.testing.assert_close(after[name], tensor.bfloat16(), rtol=0.01, atol=1e-6)
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())


@pytest.mark.parametrize(
    ("quantization", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes 4bit"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
        ({"bits": 4, "group_size": 64}, "MLX"),
        ({"w_bit": 4, "q_group_size": 128, "version": "GEMM", "zero_point": True}, "awq"),
        ({"quant_method": "aqlm", "nbits_per_codebook": 16, "num_codebooks": 1}, "aqlm"),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, "hqq"),
        ({"quant_method": "eetq", "weights": "int8"}, "eetq"),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fbgemm_fp8"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "torchao"),
        ({"quant_method": "quanto", "weights": "int8", "activations": None}, "quanto"),
        ({"quant_method": "bitnet", "linear_class": "autobitlinear"}, "bitnet"),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
            "modelopt NVFP4",
        ),
        ({"quant_method": "not-yet-invented"}, "not-yet-invented"),
    ],
)
def test_what_was_rounded_for_inference_only_is_refused_with_a_way_out(
    tmp_path: Path, quantization: dict[str, Any], named: str
) -> None:
    source = write_published("mistral-nemo", tmp_path / "source")
    stated(source, quantization)
    model = ModelConfig(name_or_path=str(source))
    with pytest.raises(ConfigError, match=rf"quantised \({named}\).*adapter=qlora"):
        plan_weights(model, load_pretrained_config(model))


def test_compressed_tensors_name_the_package_that_decodes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sft_app.loader.checkpoint import quantized_source

    monkeypatch.setattr(quantized_source, "is_installed", lambda module: False)
    source = write_published("mistral-nemo", tmp_path / "source")
    stated(source, {"quant_method": "compressed-tensors", "format": "float-quantized"})
    model = ModelConfig(name_or_path=str(source))
    with pytest.raises(ConfigError, match="pip install compressed-tensors"):
        plan_weights(model, load_pretrained_config(model))


def test_a_quantisation_that_stands_elsewhere_is_found(tmp_path: Path) -> None:
    """Beside the text model's settings, under older compressed-tensors' key, under MLX's."""
    source = write_published("gemma-3-4b", tmp_path / "nested")
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (source / "config.json").write_text(json.dumps(config))
    other = write_published(
        "mistral-nemo", tmp_path / "mlx", quantization={"bits": 4, "group_size": 64}
    )
    for directory, named in ((source, "gptq"), (other, "MLX")):
        model = ModelConfig(name_or_path=str(directory))
        with pytest.raises(ConfigError, match=rf"quantised \({named}\)"):
            plan_weights(model, load_pretrained_config(model))


@pytest.mark.parametrize(
    ("parts", "file"),
    [
        ({"qweight": torch.int32, "qzeros": torch.int32, "scales": torch.float16},
         "quantize_config.json"),
        ({"weight": torch.uint8, "weight_scale": torch.float8_e4m3fn,
          "weight_scale_2": torch.float32}, "hf_quant_config.json"),
        ({"weight": torch.uint8, "weight.absmax": torch.float32}, None),
    ],
)  # fmt: skip
def test_parts_of_quantised_weights_are_known_without_a_word_in_config_json(
    tmp_path: Path, parts: dict[str, torch.dtype], file: str | None
) -> None:
    """Older GPTQ, ModelOpt's NVFP4 and bitsandbytes."""
    source = write_published("mistral-nemo", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    for part, dtype in parts.items():
        weights[f"model.layers.0.mlp.up_proj.{part}"] = torch.zeros(8, 8).to(dtype)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    if file is not None:
        (source / file).write_text("{}")
    model = ModelConfig(name_or_path=str(source))
    with pytest.raises(ConfigError, match=rf"is quantised \(model.*{file or 'config.json'}"):
        plan_weights(model, load_pretrained_config(model))


def test_an_fp8_checkpoint_with_towers_is_saved_under_its_own_names(tmp_path: Path) -> None:
    source = write_published("gemma-3-4b", tmp_path / "source")
    before = set(load_file(source / "model.safetensors"))
    weights = load_file(source / "model.safetensors")
    for name in [
        n for n in weights if n.startswith("language_model") and n.endswith("_proj.weight")
    ]:
        weights[f"{name}_scale_inv"] = torch.tensor(1.0)
        weights[name] = weights[name].to(torch.float8_e4m3fn)
        weights[name.replace("weight", "activation_scale")] = torch.tensor(1.0)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    stated(source, {"quant_method": "fp8", "activation_scheme": "static",
                    "weight_block_size": None})  # fmt: skip
    saved = save_again(source, tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == before
    assert saved.weights.num_tensors == len(before)


def fp8(source: Path, block: int, grid: tuple[int, int], scale: str = "_scale_inv") -> ModelConfig:
    """One projection of (96, 64) in FP8, with a grid of scales."""
    name = "model.layers.0.mlp.up_proj.weight"
    weights = load_file(source / "model.safetensors")
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    weights[f"{name}{scale}"] = torch.ones(grid)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    stated(source, {"quant_method": "fp8", "weight_block_size": [block, block]})
    return ModelConfig(name_or_path=str(source))


@pytest.mark.parametrize(
    ("block", "grid", "scale", "said"),
    [
        (32, (3, 2), "_scale_inv", None),
        # transformers would take them for 48 and 48 rows, not 64 and 32 (DeepSeek-V3 has such).
        (64, (2, 1), "_scale_inv", "96 numbers in 2 blocks of 64: the last is not whole"),
        (40, (3, 2), "_scale_inv", "blocks of 40"),
        (32, (3, 2), "_scale", "no scale under a name that is read"),
    ],
)
def test_blocks_that_would_be_decoded_wrongly_are_refused(
    tmp_path: Path, block: int, grid: tuple[int, int], scale: str, said: str | None
) -> None:
    model = fp8(write_published("mistral-nemo", tmp_path / "source"), block, grid, scale)
    hf_config = load_pretrained_config(model)
    if said is None:
        assert "fp8 in the checkpoint, decoded" in str(plan_weights(model, hf_config))
    else:
        with pytest.raises(ConfigError, match=f"cannot be decoded exactly .*{said}"):
            plan_weights(model, hf_config)


def test_a_config_that_says_fp8_of_plain_weights_is_told(tmp_path: Path) -> None:
    source = write_published("mistral-nemo", tmp_path / "source")
    stated(source, {"quant_method": "fp8", "weight_block_size": [16, 16]})
    model = ModelConfig(name_or_path=str(source))
    plan = plan_weights(model, load_pretrained_config(model))
    assert "config.json says fp8, but the weights are plain" in str(plan)


@pytest.mark.parametrize("value", ["fp8", ["fp8"], 8])
def test_a_quantisation_that_is_no_mapping_is_told(tmp_path: Path, value: object) -> None:
    source = write_published("mistral-nemo", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": value}))
    with pytest.raises(ConfigError, match=r"quantization_config=.*names and values are expected"):
        load_pretrained_config(ModelConfig(name_or_path=str(source)))
