"""The tiny Llama of `make sweep`: made once from its settings, and made anew from others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sft_app.pretrain.settings import DEFAULT, RECIPES, is_made, load_settings


def test_a_folder_made_from_other_settings_does_not_count(tmp_path: Path) -> None:
    settings = load_settings(DEFAULT)
    assert not is_made(tmp_path, settings)
    (tmp_path / "pretrain.json").write_text(json.dumps({"digest": settings.digest()}))
    assert is_made(tmp_path, settings)
    (tmp_path / "other.yaml").write_text(DEFAULT.read_text().replace("seed: 0", "seed: 1"))
    assert not is_made(tmp_path, load_settings(tmp_path / "other.yaml"))


@pytest.mark.slow
def test_it_is_made_once_and_loads_as_any_checkpoint(tmp_path: Path) -> None:
    small = DEFAULT.read_text()
    for setting, value in {
        "num_steps": "3", "batch_size": "2", "source_megabytes": "0.1",
        "pretrain_conversations": "10", "train_conversations": "5", "eval_conversations": "4",
    }.items():  # fmt: skip
        lines = [line for line in small.splitlines() if not line.startswith(f"{setting}:")]
        small = "\n".join([*lines, f"{setting}: {value}"])
    (tmp_path / "small.yaml").write_text(small)
    command = [sys.executable, "-m", "sft_app.pretrain", "made", "small.yaml"]
    for said in ("Pre-trained in", "already"):
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said in answer.stdout

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert model.config.max_position_embeddings == 128
    assert "<|im_start|>user" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False
    )
    assert len(json.loads((tmp_path / "made/train.json").read_text())) == 5
    assert len(json.loads((tmp_path / "made/eval.json").read_text())) == 4


def test_a_second_round_has_rows_and_a_learning_rate_of_its_own() -> None:
    settings = load_settings(RECIPES / "needle_llama.yaml")
    second = settings.second_round()
    assert second is not None
    assert (second.num_steps, second.learning_rate) == (1800, 3e-3)
    assert second.short_steps == 0, "long rows alone"
    assert second.seed != settings.seed, "other rows than the first round's"
    assert load_settings(DEFAULT).second_round() is None
