"""Every file that data are read from is among those whose content a resume compares."""

import os

import pytest

from sft_app.config.locations import DOCUMENT_SUFFIXES
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import DataConfig
from sft_app.config.schema.evaluation import EvaluationConfig
from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.data.read.sources import resolve_sources
from sft_app.records.input_files import input_files


@pytest.fixture
def folder(tmp_path):
    for name in ("data/a.jsonl", "data/B.JSONL", "elsewhere/c.jsonl.gz", ".kept/d.jsonl", "run/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    return tmp_path


def compared(place):
    config = AppConfig(
        data=DataConfig(train=place),
        model=ModelConfig(name_or_path="org/model"),
        tokenizer=TokenizerConfig(),
        evaluation=EvaluationConfig(),
    )
    return {path.resolve() for path in input_files(config).get("data.train", {}).values()}


@pytest.mark.parametrize("place", ["data", "data/*.jsonl", "../data/*.jsonl", "../.kept/*.jsonl"])
def test_files_that_are_read_are_compared(folder, monkeypatch, place):
    monkeypatch.chdir(folder / "run" if place.startswith("..") else folder)
    read = {file.resolve() for file in resolve_sources(place, "data.train")[0].files}
    assert read and compared(place) == read


def test_documents_that_are_measured_on_are_compared(folder):
    (folder / "data/essay.md").touch()
    config = AppConfig(
        data=DataConfig(train="data"),
        model=ModelConfig(name_or_path="org/model"),
        tokenizer=TokenizerConfig(),
        evaluation=EvaluationConfig(documents=os.fspath(folder / "data")),
    )
    place = config.evaluation.documents
    (source,) = resolve_sources(place, "documents", suffixes=DOCUMENT_SUFFIXES)
    read = {file.resolve() for file in source.files}
    found = {path.resolve() for path in input_files(config)["evaluation.documents"].values()}
    assert folder / "data/essay.md" in read and found == read


def test_a_split_of_a_saved_data_set_is_compared(folder):
    split = folder / "saved" / "test"
    split.mkdir(parents=True)
    (folder / "saved" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    (split / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (split / "data.arrow").touch()
    assert (split / "data.arrow").resolve() in compared(os.fspath(folder / "saved") + ":test")
