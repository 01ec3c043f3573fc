"""A message for the user is one printable line, whatever file it quotes."""

import pickle

from sft_app.common.errors import LONGEST, ConfigError, DataError


def test_what_would_move_a_terminals_cursor_is_written_out() -> None:
    assert str(DataError("spoken by '\x1b[2Jé\n\ud800\x00'")) == (
        "spoken by '\\x1b[2Jé\\n\\ud800\\x00'"
    )


def test_a_long_one_keeps_where_and_what_to_do() -> None:
    said = str(ConfigError(f"chat.json record 7: {'x' * 10_000}; data.on_bad_record=skip"))
    assert said.startswith("chat.json record 7: x") and said.endswith("data.on_bad_record=skip")
    assert " [...] " in said and len(said) <= LONGEST


def test_it_comes_whole_out_of_another_process() -> None:
    assert str(pickle.loads(pickle.dumps(DataError("a\nb")))) == "a\\nb"
