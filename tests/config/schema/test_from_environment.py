"""What stands in the environment is used by a run, and written nowhere."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig, load_config, save_config
from sft_app.launch.job.run_job import initial_result
from sft_app.records.identity import identity_of
from sft_app.records.result import Status

Compose = Callable[..., AppConfig]
SECRET = "s3cret-t0ken"


@pytest.fixture
def config(compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AppConfig:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    return compose(
        "+trainer.extra.hub_token=${oc.env:MY_TOKEN}",
        "model.name_or_path=https://user:${oc.env:MY_TOKEN}@example.org/model",
        "tokenizer.name_or_path=${model.name_or_path}",
        f"data.train=[{{path: {tmp_path}/${{oc.env:MY_TOKEN}}.jsonl}}, b.jsonl]",
    )


def test_the_value_is_there_for_who_uses_it(config: AppConfig, tmp_path: Path) -> None:
    assert config.trainer.extra["hub_token"] == SECRET
    assert config.tokenizer.name_or_path == f"https://user:{SECRET}@example.org/model"
    save_config(config, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_no_file_of_a_run_holds_it(config: AppConfig, tmp_path: Path) -> None:
    kept = dataclasses.replace(copy.deepcopy(pickle.loads(pickle.dumps(config))))
    save_config(kept, tmp_path / "config.yaml")
    identity_of(kept, 1).write(tmp_path)
    initial_result(kept, Status.running).write(tmp_path)
    for path in tmp_path.iterdir():
        assert SECRET not in path.read_text(), path
    assert "${oc.env:MY_TOKEN}" in (tmp_path / "config.yaml").read_text()


def test_a_setting_from_the_environment_is_a_difference_by_its_reference(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert identity_of(config, 1).settings["trainer.extra"] == {"hub_token": "${oc.env:MY_TOKEN}"}
