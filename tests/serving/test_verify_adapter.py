"""An adapter alone: loaded by PEFT on its base, with the positions that it was trained with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sft_app.records.manifest import write_manifest
from sft_app.serving.adapter_folder import is_adapter
from sft_app.serving.expectations import probe_logits, write_expectations
from sft_app.serving.verify_saved import verify_saved

peft = pytest.importorskip("peft", reason="PEFT is not installed")
Damage = Callable[[Path], None]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """LoRA on a base whose rope was extended by linear 4: not as the base's own config says."""
    folder = tmp_path / "adapter"
    config = AutoConfig.from_pretrained(tiny_model)
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    base = AutoModelForCausalLM.from_pretrained(tiny_model, config=config)
    torch.manual_seed(0)
    lora = peft.LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, lora).eval()
    model.save_pretrained(folder)
    config.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    probe = probe_logits(model, tokenizer, torch.device("cpu"))
    write_expectations(
        tmp_path / "verification", base, tokenizer, probe,
        serving_length=64, saved_template=None, computed_in="float32",
    )  # fmt: skip
    return folder


def test_it_is_found_as_it_was_with_and_without_what_training_wrote(adapter: Path) -> None:
    assert is_adapter(adapter)
    verdict = verify_saved(adapter, adapter.parent / "verification")
    assert verdict.passed, verdict.sentence()
    assert "differ by" in verdict.checks["logits"].detail
    assert verify_saved(adapter, None).checks["logits"].detail == "finite"


def scale_a_matrix(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"] *= 1.5
    save_file(weights, folder / WEIGHTS)


def drop_a_matrix(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(weights, folder / WEIGHTS)


def add_a_head(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"base_model.model.score.weight": torch.ones(2, 2)}, folder / WEIGHTS)


def lose_the_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-4] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def forget_the_rope(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    config.save_pretrained(folder)


def lose_the_base(folder: Path) -> None:
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text()) | {"base_model_name_or_path": "/no/such/base"}
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "check", "detail"),
    [
        (scale_a_matrix, "logits", "differ by"),
        (drop_a_matrix, "loads", "missing: base_model.model.model.layers.1"),
        (add_a_head, "loads", "too many: base_model.model.score.weight"),
        (lose_the_weights, "loads", "no weights (adapter_model.safetensors or adapter_model.bin)"),
        (flip_a_bit, "files", "adapter_model.safetensors has other content"),
        (forget_the_rope, "logits", "differ by"),
        (lose_the_base, "loads", "'/no/such/base' is not here"),
    ],
)
def test_damage_is_found_and_named(adapter: Path, damage: Damage, check: str, detail: str) -> None:
    write_manifest(adapter)
    damage(adapter)
    verdict = verify_saved(adapter, adapter.parent / "verification")
    assert not verdict.passed
    assert detail in verdict.checks[check].detail
    assert not verdict.checks["files"].passed


def test_weights_of_older_versions_of_peft_are_read_too(adapter: Path) -> None:
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    verdict = verify_saved(adapter, adapter.parent / "verification")
    assert verdict.passed, verdict.sentence()


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens"], "bias": "all"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    ],
    ids=["dora", "embedding", "modules", "tokens"],
)
@pytest.mark.parametrize("with_embeddings", [False, True])
def test_all_that_peft_saves_beside_matrices_has_its_place(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any], with_embeddings: bool
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
    model = peft.get_peft_model(base, lora)
    model.save_pretrained(tmp_path, save_embedding_layers=with_embeddings)
    verdict = verify_saved(tmp_path, None)
    assert verdict.passed, verdict.sentence()
