"""A config.json whose rotary positions cannot be: refused before anything is computed from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config


def write_config(tiny_model: Path, folder: Path, **changes: Any) -> ModelConfig:
    shutil.copytree(tiny_model, folder)
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stated, **changes}))
    return ModelConfig(name_or_path=str(folder))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"rope_type": "default", "rope_theta": -1e4}, "rope_theta=-10000.0, where a number above"),
        ({"rope_type": "default", "rope_theta": float("nan")}, "rope_theta=nan, where a number"),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": "8"}, "factor='8', where a number"),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": True}, "factor=True, where a number"),
        ({"rope_type": "linear", "rope_theta": 1e4}, "rope_type=linear without factor"),
        ({"rope_type": "yarn", "rope_theta": 1e4, "factor": 1e308}, "factor=1e"),
    ],
)
def test_what_no_rotation_can_have_is_named(
    parameters: dict[str, Any], said: str, tiny_model: Path, tmp_path: Path
) -> None:
    config = write_config(tiny_model, tmp_path / "own", rope_parameters=parameters)
    with pytest.raises(ConfigError, match=r"^model\.name_or_path: ") as refusal:
        load_pretrained_config(config)
    assert said in str(refusal.value) or "Error" in str(refusal.value)  # or transformers itself


def test_a_config_that_is_a_list_or_far_too_large_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = write_config(tiny_model, tmp_path / "large", head_dim=2**31)
    with pytest.raises(ConfigError, match="head_dim=2147483648, and no model has more than"):
        load_pretrained_config(config)
    (tmp_path / "large/config.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds list where names and values are expected"):
        load_pretrained_config(config)
