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
