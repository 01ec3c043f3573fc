"""Names of columns and roles that no record can have."""

from collections.abc import Callable

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.check_data import check_data_names, check_position_skipping

Compose = Callable[..., AppConfig]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.columns={instructoin: q}", r"Did you mean data.columns.instruction\?"),
        ("data.columns={question: instruction}", r"mean data.columns=\{instruction: question\}"),
        ("data.roles={student: pupil}", "pupil is no role. Allowed: system, user"),
        ("data.roles={user: student}", r"Did you mean data.roles=\{student: user\}"),
    ],
)
def test_a_name_that_nothing_has_is_refused(compose: Compose, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_data_names(compose(override))


def test_names_of_columns_and_roles_pass(compose: Compose) -> None:
    columns = "data.columns={instruction: q, output: a}"
    config = compose(columns, "data.roles={tutor: assistant}")
    check_data_names(config)
    assert config.data.columns == {"instruction": "q", "output": "a"}
    assert config.data.roles == {"tutor": "assistant"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.position_target=4096"], "no meaning with data.position_skipping=none"),
        (["data.position_skipping=pose"], r"data.position_target=4096.*\(it is null\)"),
        (["data.position_skipping=pose", "data.position_target=2048"], r"\(it is 2048\)"),
        (
            ["data.position_skipping=pose", "data.position_target=8192",
             "model.attn_implementation=flash_attention_2"],
            "model.attn_implementation=auto",
        ),
    ],
)  # fmt: skip
def test_positions_are_skipped_up_to_a_target_beyond_the_rows(
    compose: Compose, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_position_skipping(compose("context_length=2048", *overrides))


def test_the_target_is_what_positions_are_extended_for(compose: Compose) -> None:
    config = compose("context_length=2048", "data.position_skipping=pose",
                     "data.position_target=8192")  # fmt: skip
    check_position_skipping(config)
    assert (config.context_length, config.target_length) == (2048, 8192)
    assert compose("context_length=2048").target_length == 2048
