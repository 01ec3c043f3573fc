"""Names of columns and roles that no record can have."""

from collections.abc import Callable

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.check_data import check_data_names

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
