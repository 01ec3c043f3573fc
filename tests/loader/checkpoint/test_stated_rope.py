"""A config.json whose rotary positions cannot be: refused before anything is computed from it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.stated_rope import check_one_rope


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


def test_a_factor_without_a_method_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """transformers reads it as a model that is not scaled."""
    config = write_config(
        tiny_model, tmp_path / "own", rope_parameters={}, rope_scaling={"factor": 4.0}
    )
    with pytest.raises(ConfigError, match=r"factor=4\.0 without a rope_type"):
        load_pretrained_config(config)


def test_a_method_that_the_family_does_not_know_is_named(tiny_model: Path, tmp_path: Path) -> None:
    lists = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = write_config(
        tiny_model, tmp_path / "own", rope_parameters={"rope_type": "su", **lists}
    )
    with pytest.raises(ConfigError, match=r"says rope_type 'su', which .* 'llama' models"):
        build_skeleton(load_pretrained_config(config))


def test_a_pad_token_beyond_the_vocabulary_is_named(tiny_model: Path, tmp_path: Path) -> None:
    config = write_config(tiny_model, tmp_path / "own", pad_token_id=4000)
    with pytest.raises(ConfigError, match="pad_token_id=4000, which is not among its"):
        build_skeleton(load_pretrained_config(config))


def test_a_config_that_is_a_list_or_far_too_large_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = write_config(tiny_model, tmp_path / "large", head_dim=2**31)
    with pytest.raises(ConfigError, match="head_dim=2147483648, and no model has more than"):
        load_pretrained_config(config)
    (tmp_path / "large/config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"holds list where|no configuration can be read"):
        load_pretrained_config(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_theta": 1e6}, "rope_theta=1000000.0 and rope_parameters.rope_theta=10000.0"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling.factor=2.0 and rope_parameters.factor=4.0",
        ),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
            "rope_scaling.rope_type='dynamic' and rope_parameters.rope_type='linear'",
        ),
        (
            {"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 4.0}},
            "rope_scaling.type='yarn' and rope_type='linear'",
        ),
    ],
)
def test_two_rotations_in_one_config_are_refused(
    changes: dict[str, Any], said: str, tiny_model: Path, tmp_path: Path
) -> None:
    """What is saved has old keys and new ones: edited in one place, it was read as before."""
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    same = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}
    agreeing = write_config(tiny_model, tmp_path / "same", rope_parameters=rope, **same)
    assert load_pretrained_config(agreeing).rope_parameters["factor"] == 4.0
    config = write_config(tiny_model, tmp_path / "own", rope_parameters=rope, **changes)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_pretrained_config(config)


@pytest.mark.parametrize(
    "rotation",
    [
        {"type": "mrope", "rope_type": "default", "mrope_section": [2, 1, 1]},  # Qwen2-VL's
        {
            "type": "su",
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
        },
        {"type": "linear", "rope_type": "linear", "factor": 2.0},
    ],
)
def test_an_older_word_for_the_same_rotation_is_no_other_one(
    rotation: dict[str, Any],
) -> None:
    stated = {"rope_scaling": rotation}
    check_one_rope({"rope_theta": 1e4, "rope_scaling": rotation}, "a model")
    new = {key: value for key, value in rotation.items() if key != "type"}
    check_one_rope(stated | {"rope_parameters": new}, "a model")
    with pytest.raises(ConfigError, match="rope_type"):
        check_one_rope(stated | {"rope_parameters": {**new, "rope_type": "yarn"}}, "a model")
