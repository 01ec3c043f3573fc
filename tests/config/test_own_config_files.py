"""A folder of the user's own configurations: what cannot be one is refused before it is read."""

from pathlib import Path

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.own_config_files import check_config_dir

# Nine lines that stand for 9^9 values.
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB.encode(), "stands for more than 100,000 values"),
        (b"trainer: " + b"[" * 3000 + b"]" * 3000, "nested deeper than 64 levels"),
        (b"\x00\xff\xfe", "is no UTF-8 text"),
        (b"x: " + b"y" * 2**20, "more than 1,048,576 bytes"),
        (b"# @package _global_\n16384\n", "holds '16384' and nothing else"),
    ],
)
def test_it_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "experiment/mine.yaml"
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as refusal:
        check_config_dir(tmp_path)
    assert str(file) in str(refusal.value)


def test_what_a_configuration_can_be_is_left_to_hydra(tmp_path: Path) -> None:
    (tmp_path / "aliases.yaml").write_text("a: &a {b: 1}\nc: [*a, *a]\n")
    (tmp_path / "broken.yaml").write_text("trainer: {max_steps: 5\n a: [")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "notes.txt").write_bytes(b"\xff")
    check_config_dir(tmp_path)
