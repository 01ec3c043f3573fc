"""The commands from Python: four functions, importable without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sft_app
from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeMethod

EXAMPLE = Path(__file__).parents[1] / "examples" / "from_python.ipynb"


def test_importing_and_composing_takes_no_torch() -> None:
    code = (
        "import sys, sft_app;"
        "sft_app.compose(['model=smollm2', 'data=sharegpt']), sft_app.train, sft_app.report,"
        "sft_app.plan; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer.stderr


def test_words_of_the_command_line_make_a_typed_configuration() -> None:
    config = sft_app.compose(["model=smollm2", "data=sharegpt", "context_length=16k", "rope=yarn"])
    assert config.context_length == config.tokenizer.model_max_length == 16384
    assert config.rope.method is RopeMethod.yarn


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model=smollm2"], "data.train"),
        (["lr=1"], "trainer.learning_rate"),
        (["model=smollm2", "data=sharegpt", "seed=-1"], "seed"),
        (["rope=linear,yarn"], "--multirun"),
    ],
)
def test_bad_words_raise_the_sentence_of_the_command(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        sft_app.compose(words)


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run"):
        sft_app.report(tmp_path)


def test_a_plan_reads_as_what_the_command_prints(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is learned label by label, and held-out data that is trained on, are in it, too."""
    held = tmp_path / "held.jsonl"
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A" * 100}]
    held.write_text(json.dumps({"messages": turns}) + "\n")
    config = sft_app.compose(
        [
            f"model.name_or_path={tiny_model}",
            f"data.train={held}",
            f"data.eval={held}",
            "data.preview=1",
            "context_length=32",
            "rope=none",
            "data.overlong=truncate",
            f"data.cache_dir={tmp_path / 'cache'}",
        ]
    )
    text = str(sft_app.plan(config))
    assert "Statistics(" not in text
    assert "\ndata            1 record, 1 used (messages format)\n" in text
    assert "\nWARNING         7" in text and "% of the tokens are lost to context_length=32" in text
    assert text.index("lost to") < text.index("⟦AAA")
    assert "1 conversation of data.eval stands in data.train as well" in caplog.text


@pytest.mark.slow
def test_planned_trained_reported(tiny_model: Path, chat_file: Path, tmp_path: Path) -> None:
    config = sft_app.compose(
        [
            f"model.name_or_path={tiny_model}",
            f"data.train={chat_file}",
            "context_length=64",
            "trainer=debug",
            "evaluation=none",
            "launch.device=cpu",
            f"data.cache_dir={tmp_path / 'cache'}",
        ]
    )
    run_dir = tmp_path / "run"
    plan = sft_app.plan(config)
    assert plan.values["rope"]["method"] in str(plan)
    result = sft_app.train(config, run_dir)
    assert result.status == "completed"
    assert sft_app.train(config, run_dir).steps == result.steps  # complete: nothing is done again
    assert sft_app.report(run_dir) == run_dir / "report.html"


@pytest.mark.slow
def test_the_example_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLE, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    said = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert "completed" in said


def test_the_example_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(EXAMPLE.read_text(encoding="utf-8"))["cells"]
    assert not [c for c in cells if c.get("outputs")]
