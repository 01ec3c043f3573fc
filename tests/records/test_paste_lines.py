"""Lines to paste: a shell and Hydra read them as what was meant."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from sft_app.records.paste_lines import go_on_with, shell_line, train_further


def read_back(line: str) -> dict[str, Any]:
    """What Hydra's own parser makes of the words that a shell makes of `line`."""
    command, *words = shlex.split(line)
    assert command == "sft-train"
    parsed = OverridesParser.create().parse_overrides(words)
    assert not any(override.is_sweep_override() for override in parsed)
    return {override.key_or_group: override.value() for override in parsed}


@pytest.mark.parametrize(
    "train",
    [
        "pkg://tiny/chats.json",
        "./my chats, all of them/it's.jsonl",
        "42",
        "[odd].json",
        [{"path": "a,b.json", "weight": 0.5}, {"path": "c.json", "weight": 2}],
    ],
)
def test_training_further_names_model_and_data(train: Any) -> None:
    config = {
        "context_length": 512,
        "data": {"train": train, "eval": None, "format": "auto", "columns": {"messages": "a b"}},
    }
    line = train_further(Path("outputs/a run/model"), config)
    assert line is not None
    assert read_back(line) == {
        "model.name_or_path": "outputs/a run/model", "data.train": train,
        "data.columns": {"messages": "a b"}, "context_length": 512,
    }  # fmt: skip


@pytest.mark.parametrize(
    "word", ["plain", "a b", "x='a b'", "it's $5", '"', "'\\''", "!'", "`'`", ""]
)
def test_a_shell_reads_every_word_as_it_was(word: str) -> None:
    assert shlex.split(shell_line("x", word)) == ["x", word]
    echoed = subprocess.run(
        ["bash", "-c", f"printf %s {shell_line(word)}"], capture_output=True, text=True, check=True
    )
    assert echoed.stdout == word


def test_a_path_with_spaces_is_readable() -> None:
    assert shell_line("sft-train", "data.train='my chat.jsonl'") == (
        "sft-train \"data.train='my chat.jsonl'\""
    )


def test_a_secret_makes_no_line() -> None:
    assert train_further(Path("m"), {"data": {"train": "https://me:pass@host/x.json"}}) is None
    assert train_further(Path("m"), {}) is None


def test_going_on_repeats_the_command_in_the_same_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "a run"
    (run_dir / ".hydra").mkdir(parents=True)
    overrides = {
        "task": ["model=tiny_llama", "data.train='a b.json'"],
        "hydra": ["hydra.mode=RUN", "hydra.run.dir=elsewhere", "hydra.verbose=true"],
    }
    (run_dir / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": overrides}}))
    assert go_on_with(run_dir) is None, "there is nothing to go on from"
    (run_dir / "checkpoints/checkpoint-3").mkdir(parents=True)
    line = go_on_with(run_dir)
    assert line is not None
    assert read_back(line) == {
        "model": "tiny_llama", "data.train": "a b.json", "hydra.verbose": True,
        "hydra.run.dir": str(run_dir),
    }  # fmt: skip
