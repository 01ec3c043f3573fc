"""Values in YAML files of the user's own: refused in our words, with what to write there."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from sft_app.config.conf_files import conf_dir
from sft_app.config.one_sentence import as_sentence
from sft_app.config.schema.app import register_schema


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("context_length: 16k", "context_length: 16k is not possible. In a file, write "
                                "context_length: 16384"),
        ("sweep: {tokens: 1.5M}", "In a file, write sweep.tokens: 1500000"),
        ("context_length: 128 K", "In a file, write context_length: 131072"),
        ("rope: {method: yarnn}", "Did you mean rope.method=yarn?"),
        ("trainer: {learning_rat: 1}", "experiment/mine.yaml: 'trainer.learning_rat' is not a "
                                       "setting. Did you mean trainer.learning_rate?"),
        ("rope: 5", "experiment/mine.yaml: a single value or a list stands where a group"),
        ("- a", "experiment/mine.yaml: a single value or a list stands where a group"),
        ("trainer: null", "experiment/mine.yaml: field 'trainer' is not Optional (trainer)"),
        ("context_length: [1]", "It takes a whole number from 8"),
    ],
)  # fmt: skip
def test_a_wrong_value_in_a_file_is_told_with_what_to_write(
    line: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{line}\n")
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"), pytest.raises(
        Exception, match="mine"
    ) as error:  # fmt: skip
        compose("config", [f"hydra.searchpath=[{tmp_path}]", "experiment=mine"])
    assert says in as_sentence(error.value)
    assert "\n" not in as_sentence(error.value)
