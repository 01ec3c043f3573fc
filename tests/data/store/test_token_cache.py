"""Tokenised once, however many processes, runs and context lengths want it."""

import json
import multiprocessing
import time
from pathlib import Path
from unittest import mock

import pytest
import torch

from sft_app.common.errors import ConfigError
from sft_app.common.file_digest import file_digest
from sft_app.config.schema.data import OnBadRecord, Packing, TrainOn
from sft_app.data import prepare_data as prepare
from sft_app.data.store import tokenize_pool as build
from sft_app.data.store.token_cache import cached
from tests.data.chat_files import settings, sharegpt
from tests.data.tokenizers_for_tests import REWRITES_HISTORY, byte_level


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([sharegpt(n, turns=1 + n % 4) for n in range(300)]))
    return path


@pytest.fixture
def tokenised(monkeypatch):
    """How often conversations went to the tokenizer in this test."""
    calls = []
    original = build.tokenised_batches

    def counting(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(prepare, "tokenised_batches", counting)
    return calls


def prepared(config, tokenizer, context_length=128, seed=1):
    return prepare.prepare_data(config, tokenizer, context_length=context_length, seed=seed)


def batches(data):
    return [{key: value.tolist() for key, value in item.items()} for item in data.train]


def test_a_second_run_and_every_other_context_length_tokenise_nothing(
    chats, tmp_path, tokenizer, tokenised
):
    config = settings(chats, tmp_path)
    first = prepared(config, tokenizer)
    for context_length in (64, 128, 4096):
        prepared(config, tokenizer, context_length)
    prepared(config, tokenizer, seed=2)
    prepared(settings(chats, tmp_path, packing=Packing.none, eval_examples=9), tokenizer)
    assert len(tokenised) == 1
    assert batches(prepared(config, tokenizer)) == batches(first)


def test_what_changes_the_tokens_is_tokenised_anew(chats, tmp_path, tokenizer, tokenised):
    prepared(settings(chats, tmp_path), tokenizer)
    prepared(settings(chats, tmp_path), byte_level(REWRITES_HISTORY))
    prepared(settings(chats, tmp_path, train_on=TrainOn.last_turn), tokenizer)
    prepared(settings(chats, tmp_path, on_bad_record=OnBadRecord.skip), tokenizer)
    prepared(settings(chats, tmp_path, max_examples=20), tokenizer)
    chats.write_text(json.dumps([sharegpt(n) for n in range(20)]))
    prepared(settings(chats, tmp_path), tokenizer)
    assert len(tokenised) == 6


def test_the_same_content_under_another_name_is_known(chats, tmp_path, tokenizer, tokenised):
    prepared(settings(chats, tmp_path), tokenizer)
    copy = tmp_path / "copy.json"
    copy.write_bytes(chats.read_bytes())
    prepared(settings(copy, tmp_path), tokenizer)
    assert len(tokenised) == 1


def test_a_name_that_says_another_kind_of_file_is_read_anew(tmp_path, tokenizer):
    lines = "".join(json.dumps(sharegpt(n)) + "\n" for n in range(30))
    for name, examples in (("a.txt", 1), ("a.jsonl", 30)):
        (tmp_path / name).write_text(lines)
        config = settings(tmp_path / name, tmp_path, eval_examples=0)
        assert prepared(config, tokenizer).statistics.train.examples == examples


def test_the_number_of_processes_changes_nothing(chats, tmp_path, tokenizer):
    results = [
        batches(
            prepared(
                settings(chats, tmp_path, num_proc=n, cache_dir=str(tmp_path / str(n))), tokenizer
            )
        )
        for n in (1, 2, 3)
    ]
    assert results[0] == results[1] == results[2]


def test_an_error_in_a_tokenising_process_is_an_error_here(chats, tmp_path, monkeypatch, tokenizer):
    def explode(self, items):
        raise RuntimeError("in the worker")

    monkeypatch.setattr(build._Tokenise, "__call__", explode)
    with pytest.raises(RuntimeError, match="in the worker"):
        prepared(settings(chats, tmp_path, num_proc=2), tokenizer)


def _rank(config, barrier, results):
    torch.set_num_threads(1)
    tokenizer = byte_level()
    barrier.wait()
    with mock.patch.object(prepare, "tokenised_batches", wraps=build.tokenised_batches) as calls:
        data = prepared(config, tokenizer)
    results.put((calls.call_count, hash(json.dumps(batches(data)))))


def test_eight_processes_that_start_at_once_tokenise_once_and_agree(chats, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    config = settings(chats, tmp_path, num_proc=1)
    ranks = [context.Process(target=_rank, args=(config, barrier, results)) for _ in range(8)]
    for rank in ranks:
        rank.start()
    outcomes = [results.get(timeout=120) for _ in ranks]
    for rank in ranks:
        rank.join()
    assert sum(calls for calls, _ in outcomes) == 1
    assert len({content for _, content in outcomes}) == 1


def _build_forever(directory, started):
    def build_slowly(folder: Path):
        (folder / "half").write_text("written")
        started.set()
        time.sleep(600)

    cached(directory, "key", build_slowly)


def test_a_builder_that_is_killed_leaves_nothing_and_blocks_nobody(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_build_forever, args=(tmp_path, started))
    process.start()
    assert started.wait(30)
    process.kill()
    process.join()
    folder = cached(tmp_path, "key", lambda folder: (folder / "whole").touch())
    assert {path.name for path in folder.iterdir()} == {"whole", "sizes.json"}


def test_a_builder_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached(tmp_path, "key", fail)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("name", ["tokens.arrow", "read.json", "sizes.json", "row.npy"])
@pytest.mark.parametrize("damage", ["cut off", "empty", "gone"])
def test_what_is_damaged_in_the_cache_is_made_anew(
    chats, tmp_path, tokenizer, name, damage, caplog
):
    config = settings(chats, tmp_path)
    first = batches(prepared(config, tokenizer))
    (kept,) = (
        path
        for path in (tmp_path / "cache").rglob(name)
        if "fitted" not in path.parts or name == "row.npy"
    )
    content = kept.read_bytes()
    kept.unlink()
    if damage != "gone":
        kept.write_bytes(content[:-9] if damage == "cut off" else b"")
    assert batches(prepared(config, tokenizer)) == first
    assert "is damaged: it is made anew" in caplog.text


def test_a_cache_that_cannot_be_is_a_setting_that_cannot_work(chats, tmp_path, tokenizer):
    with pytest.raises(ConfigError, match=r"data.cache_dir=.*chats.json.* cannot be made \(Not a"):
        prepared(settings(chats, tmp_path, cache_dir=str(chats / "cache")), tokenizer)


def test_digests_follow_the_content_and_are_remembered(tmp_path):
    path, memo = tmp_path / "a", tmp_path / "memo"
    path.write_text("one")
    one = file_digest(path, memo)
    (note,) = memo.iterdir()
    assert file_digest(path, memo) == one and list(memo.iterdir()) == [note]
    note.write_text("")
    assert file_digest(path, memo) == one == note.read_text()
    path.write_text("other")
    assert file_digest(path, memo) != one
