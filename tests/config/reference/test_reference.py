"""Settings explain themselves: in --help, in a JSON schema for editors, and on a page."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sft_app.common.errors import ConfigError
from sft_app.config.conf_files import conf_dir
from sft_app.config.reference.__main__ import generated_files
from sft_app.config.reference.describe_settings import Setting, all_groups, all_settings
from sft_app.config.reference.help_pages import help_text, topic_text
from sft_app.config.reference.json_schema import json_schema
from sft_app.config.validation.number_ranges import NUMBER_RANGES

SETTINGS = list(all_settings().values())
CONF_FILES = sorted(conf_dir().rglob("*.yaml"))
MODELINE = re.compile(r"^# yaml-language-server: \$schema=(\S+?)(?:#(\S*))?$", re.MULTILINE)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_has_a_meaning(setting: Setting) -> None:
    assert setting.meaning, f"{setting.key} needs a docstring beneath its field"


def test_every_group_and_every_value_has_a_meaning() -> None:
    assert all(group.meaning for group in all_groups())
    silent = [
        f"{setting.key}={choice}"
        for setting in SETTINGS
        for choice, meaning in setting.choices.items()
        if not meaning and choice not in ("true", "false")
    ]
    assert not silent


def test_every_number_has_a_range() -> None:
    numbers = {s.key for s in SETTINGS if re.search(r"number", s.kind)}
    assert numbers <= set(NUMBER_RANGES), "sft_app/config/validation/number_ranges.py"
    assert set(NUMBER_RANGES) <= set(all_settings())


def test_help_shows_every_key_with_its_value_and_meaning() -> None:
    text = help_text("sft-train", ["rope=yarn"])
    for setting in SETTINGS:
        assert f"  {setting.key}=" in text
        assert setting.summary.split()[0] in text
    assert "rope.method=yarn" in text


def test_help_of_a_key_has_all_of_its_docstring_its_values_and_its_default() -> None:
    text = topic_text("trainer.loss_head", [])
    for part in ("trainer.loss_head=auto", "hidden states", "liger-kernel's fused", "chunked"):
        assert part in text
    assert "from 8" in topic_text("context_length", [])


def test_help_of_a_group_has_its_options_and_keys() -> None:
    text = topic_text("rope", [])
    assert "arXiv:2309.00071" in text
    assert "rope.factor=null" in text
    assert "vicuna_7b" in topic_text("experiment", [])


def test_help_of_another_word_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.loss_head"):
        topic_text("loss_head", [])


def test_generated_files_are_current() -> None:
    for path, text in generated_files().items():
        assert path.read_text(encoding="utf-8") == text, "run: python -m sft_app.config.reference"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", CONF_FILES, ids=lambda path: str(path.relative_to(conf_dir())))
def test_every_conf_file_names_its_schema_and_keeps_to_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    modeline = MODELINE.search(text)
    assert modeline, "begin with: # yaml-language-server: $schema=../schema.json#/$defs/GROUP"
    schema_file = (path.parent / modeline[1]).resolve()
    schema = json.loads(schema_file.read_text(encoding="utf-8"))
    _validate(yaml.safe_load(text) or {}, schema, modeline[2] or "")


@pytest.mark.parametrize(
    ("pointer", "wrong"),
    [
        ("", {"context_lenght": 5}),
        ("", {"context_length": "long"}),
        ("", {"context_length": 7}),
        ("/$defs/rope", {"method": "yarnn"}),
        ("/$defs/trainer", {"learning_rate": 0}),
        ("", {"rope": {"factors": 2}}),
    ],
)
def test_an_editor_marks_what_is_wrong(pointer: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        _validate(wrong, json_schema(), pointer)


def _validate(value: Any, schema: dict[str, Any], pointer: str) -> None:
    within = {"$defs": schema["$defs"], "$ref": f"#{pointer}"} if pointer else schema
    jsonschema.Draft202012Validator(within).validate(value)
