"""What the README lists is what there is."""

from pathlib import Path

import pytest

from sft_app.config.overrides import conf_dir, group_options

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
GROUPS = sorted(d.name for d in conf_dir().iterdir() if group_options(d.name))


@pytest.mark.parametrize("group", GROUPS)
def test_the_table_of_groups_names_every_option(group: str) -> None:
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{group}` |")]
    assert row.split("|")[2].replace("`", "").replace(" ", "").split(",") == group_options(group)


def test_no_mark_was_left_to_fill_in() -> None:
    assert "@@" not in README
