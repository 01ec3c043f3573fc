"""prepare_data from end to end, on small files."""

import json

import pytest
import torch

from sft_app.config.data import DataConfig, OnBadRecord, Overlong, Packing
from sft_app.data.errors import DataError
from sft_app.data.prepare import prepare_data

LENGTH = 128


def sharegpt(number, turns=2):
    words = f"number {number} " * (1 + number % 7)
    exchange = [
        {"from": "human", "value": f"What about {words}?"},
        {"from": "gpt", "value": f"The answer is {words}."},
    ]
    return {"id": str(number), "conversations": exchange * turns}


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([sharegpt(n, turns=1 + n % 4) for n in range(60)], indent=1))
    return path


def settings(path, tmp_path, **changes):
    values = {"train": str(path), "eval_examples": 5, "cache_dir": str(tmp_path / "cache")}
    return DataConfig(**(values | changes))


def prepare(config, tokenizer, seed=1):
    return prepare_data(config, tokenizer, context_length=LENGTH, seed=seed)


def test_packed_rows_have_one_length_positions_per_document_and_no_attention_mask(
    chats, tmp_path, tokenizer
):
    prepared = prepare(settings(chats, tmp_path), tokenizer)
    batch = prepared.collate([prepared.train[0], prepared.train[1]])
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert all(tensor.shape == (2, LENGTH) for tensor in batch.values())
    for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True):
        starts = (positions == 0).nonzero().flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], LENGTH], strict=True):
            assert positions[start:stop].tolist() == list(range(stop - start))
        assert tokenizer.decode(ids[:1]) == "<|im_start|>"


def test_labels_are_the_answers_with_their_end_token_and_nothing_else(chats, tmp_path, tokenizer):
    config = settings(chats, tmp_path, packing=Packing.none, overlong=Overlong.drop)
    prepared = prepare(config, tokenizer)
    for item in prepared.train:
        labelled = item["labels"] != -100
        assert torch.equal(item["labels"][labelled], item["input_ids"][labelled])
        text = tokenizer.decode(item["labels"][labelled])
        answers = text.split("<|im_end|>")
        assert answers.pop() == ""
        assert all(a.startswith("The answer is") and a.endswith(".") for a in answers)


def test_without_packing_batches_are_padded_to_the_longest_and_masked_by_length(
    chats, tmp_path, tokenizer
):
    prepared = prepare(settings(chats, tmp_path, packing=Packing.none), tokenizer)
    items = [prepared.train[0], prepared.train[1]]
    batch = prepared.collate(items)
    lengths = [len(item["input_ids"]) for item in items]
    assert batch["attention_mask"].shape == (2, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert [prepared.train.lengths[0], prepared.train.lengths[1]] == lengths


def test_held_out_conversations_are_never_trained_on(chats, tmp_path, tokenizer):
    prepared = prepare(settings(chats, tmp_path, packing=Packing.none), tokenizer)
    held = {tuple(item["input_ids"].tolist()) for item in prepared.eval}
    trained = {tuple(item["input_ids"].tolist()) for item in prepared.train}
    assert held and trained and not held & trained


@pytest.mark.parametrize("overlong", list(Overlong))
def test_no_training_example_is_without_labels_or_too_long(chats, tmp_path, tokenizer, overlong):
    config = settings(chats, tmp_path, packing=Packing.none, overlong=overlong)
    prepared = prepare(config, tokenizer)
    for item in prepared.train:
        assert len(item["input_ids"]) <= LENGTH
        assert (item["labels"][1:] != -100).any()


def test_max_examples_is_a_choice_by_seed_that_grows_without_changing(chats, tmp_path, tokenizer):
    def chosen(count, seed=1):
        config = settings(
            chats, tmp_path, max_examples=count, packing=Packing.none, overlong=Overlong.truncate
        )
        prepared = prepare(config, tokenizer, seed)
        return {tuple(item["input_ids"].tolist()) for item in prepared.train}

    assert len(chosen(10)) == 10
    assert chosen(10) < chosen(20)
    assert chosen(10) != chosen(10, seed=2)


def test_a_file_cut_off_is_an_error_that_names_the_byte_or_a_count(chats, tmp_path, tokenizer):
    chats.write_bytes(chats.read_bytes()[:-40])
    size = chats.stat().st_size
    with pytest.raises(DataError, match=f"record 60, line .*ends at byte {size} in the middle"):
        prepare(settings(chats, tmp_path), tokenizer)
    prepared = prepare(settings(chats, tmp_path, on_bad_record=OnBadRecord.skip), tokenizer)
    assert prepared.statistics.train_read.skipped == {"cut_off": 1}
    assert prepared.statistics.train_read.conversations == 59


def test_statistics_can_be_stored_and_read(chats, tmp_path, tokenizer):
    statistics = prepare(settings(chats, tmp_path), tokenizer).statistics
    assert json.loads(json.dumps(statistics.as_dict()))["train"]["examples"] == 55
    assert "60 records" in str(statistics)
