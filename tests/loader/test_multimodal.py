"""Language models beside towers: text is trained, everything is saved, the towers untouched."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.loader.published import TINY, write_tokenizer
from tests.loader.train_and_save import Saved, save_again

Json = dict[str, Any]

IMAGES: Json = {"image_token_id": 310, "video_token_id": 311, "vision_start_token_id": 312,
                "vision_end_token_id": 313, "torch_dtype": "bfloat16"}  # fmt: skip
QWEN_VISION: Json = {
    "depth": 1, "hidden_size": 32, "num_heads": 2, "in_channels": 3, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "intermediate_size": 32, "out_hidden_size": 64,
}  # fmt: skip
PIXTRAL: Json = {
    "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "head_dim": 16,
}  # fmt: skip

FAMILIES: dict[str, Json] = {
    "qwen2-vl": {
        **TINY, **IMAGES, "model_type": "qwen2_vl", "max_position_embeddings": 32768,
        "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2,
                          "in_channels": 3, "patch_size": 14, "mlp_ratio": 2},
    },
    "qwen2.5-vl": {
        **TINY, **IMAGES, "model_type": "qwen2_5_vl", "max_position_embeddings": 128000,
        "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {**QWEN_VISION, "patch_size": 14, "fullatt_block_indexes": [0],
                          "window_size": 112},
    },
    "qwen3-vl": {
        **IMAGES, "model_type": "qwen3_vl",
        "text_config": {
            **TINY, "model_type": "qwen3_vl_text", "head_dim": 16,
            "max_position_embeddings": 262144, "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True,
                             "mrope_section": [2, 3, 3]},
        },
        "vision_config": {**QWEN_VISION, "patch_size": 16, "deepstack_visual_indexes": [0],
                          "num_position_embeddings": 16},
    },
    "qwen3.5": {
        **IMAGES, "model_type": "qwen3_5",
        "text_config": {
            **TINY, "model_type": "qwen3_5_text", "head_dim": 16, "num_hidden_layers": 4,
            "max_position_embeddings": 262144, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7,
                                "partial_rotary_factor": 0.5, "mrope_interleaved": True,
                                "mrope_section": [1, 1, 2]},
            "mtp_num_hidden_layers": 1,
        },
        "vision_config": {**QWEN_VISION, "patch_size": 16, "deepstack_visual_indexes": [],
                          "num_position_embeddings": 16},
    },
    "llama-4": {
        "model_type": "llama4", "image_token_index": 310, "boi_token_index": 311,
        "eoi_token_index": 312, "torch_dtype": "bfloat16",
        "text_config": {
            **TINY, "model_type": "llama4_text", "head_dim": 16, "intermediate_size_mlp": 96,
            "num_local_experts": 2, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
            "attention_chunk_size": 32, "max_position_embeddings": 10485760, "rope_theta": 5e5,
            "no_rope_layers": [1, 0],
            "rope_scaling": {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 1.0, "original_max_position_embeddings": 8192},
        },
        "vision_config": {
            "model_type": "llama4_vision_model", "hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
            "projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32,
        },
    },
    "mistral-small-3": {
        "model_type": "mistral3", "image_token_index": 310, "spatial_merge_size": 2,
        "torch_dtype": "bfloat16", "vision_config": PIXTRAL,
        "text_config": {**TINY, "model_type": "mistral", "head_dim": 16, "rope_theta": 1e9,
                        "max_position_embeddings": 131072, "sliding_window": None},
    },
    "ministral-3": {
        "model_type": "mistral3", "image_token_index": 310, "spatial_merge_size": 2,
        "torch_dtype": "bfloat16", "vision_config": PIXTRAL,
        "text_config": {
            **TINY, "model_type": "ministral3", "head_dim": 16, "max_position_embeddings": 262144,
            "sliding_window": None,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0,
                "original_max_position_embeddings": 16384, "beta_slow": 1.0, "mscale": 1.0,
                "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
            },
        },
    },
}  # fmt: skip
"""Family -> config.json, as published but for the sizes."""

OFTEN = ("qwen2-vl", "qwen3.5", "mistral-small-3")


def write(family: str, directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(FAMILIES[family]))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(directory)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(directory)
    file = directory / "model.safetensors"
    weights = {n: t.to(torch.bfloat16) for n, t in load_file(file).items()}
    if family == "qwen3.5":
        weights["mtp.fc.weight"] = torch.zeros(4, 4, dtype=torch.bfloat16)
    save_file(weights, file, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(FAMILIES[family]))
    write_tokenizer(directory)
    return directory


def one_step(saved: Saved) -> set[str]:
    """The names of the parameters that a step of training on text would change."""
    ids = torch.tensor([[1, 20, 33, 47, 60, 75]])
    saved.model.train()(input_ids=ids, labels=ids).loss.backward()
    return {n for n, p in saved.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "family", [f if f in OFTEN else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_text_is_trained_and_everything_is_saved(family: str, tmp_path: Path) -> None:
    source = write(family, tmp_path / "source")
    saved = save_again(source, tmp_path / "saved")
    before, after = (load_file(d / "model.safetensors") for d in (source, tmp_path / "saved"))
    lost = {"mtp.fc.weight"} if family == "qwen3.5" else set()
    assert after.keys() == before.keys() - lost
    assert all(torch.equal(after[n], before[n]) for n in after)
    changed = one_step(saved)
    assert changed and not any("visual" in n or "vision" in n or "projector" in n for n in changed)
    assert "text alone is trained, the rest is saved untouched" in str(saved.weights)
    if lost:
        assert saved.weights.dropped == {"mtp.": 1}
        config = json.loads((tmp_path / "saved" / "config.json").read_text())
        assert config["text_config"]["mtp_num_hidden_layers"] == 0
