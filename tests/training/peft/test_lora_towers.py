"""An adapter on a multimodal model goes into its language model, and nowhere else."""

import json
from pathlib import Path

from transformers import AutoConfig

from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.training.peft.lora import add_adapter
from tests.loader.test_multimodal import FAMILIES


def test_all_linear_means_those_of_the_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES["qwen2-vl"]))
    model = build_skeleton(AutoConfig.from_pretrained(tmp_path))
    lora = AdapterConfig(method=AdapterMethod.lora, target_modules=["all-linear"])
    adapted = {n for n, _ in add_adapter(model, lora, seed=0).named_parameters() if "lora_A" in n}
    assert any("language_model" in name for name in adapted)
    assert not any("visual" in name for name in adapted)
