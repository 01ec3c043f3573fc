"""prepare_data from end to end, on small files."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from sft_app.common.errors import ConfigError, DataError
from sft_app.config.schema.data import OnBadRecord, Overlong, Packing, TrainOn
from sft_app.data.batches.collators import CollateDocuments
from sft_app.data.batches.datasets import LONGEST_PADDING_DOCUMENT, PackedDataset
from sft_app.data.prepare_data import prepare_data
from sft_app.data.statistics_text import describe_statistics
from sft_app.loader.tokenizer.chat_template import template_names
from sft_app.training.attention.document_bounds import lengths_of_batch
from tests.data.chat_files import LENGTH, prepare, settings, sharegpt
from tests.data.tokenizers_for_tests import CHATML, byte_level


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


@pytest.mark.parametrize("packing", [Packing.best_fit, Packing.none])
def test_every_item_names_the_records_that_it_was_made_of(tmp_path, tokenizer, packing):
    """Also where equal files stood elsewhere when they were tokenised."""
    data = {}
    for place in ("before", "now"):
        folder = tmp_path / place
        folder.mkdir()
        for name, first in (("a.jsonl", 0), ("b.jsonl", 20)):
            records = [{**sharegpt(first + n, turns=1), "id": f"r{first + n}"} for n in range(20)]
            (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records))
        config = settings(folder, tmp_path, packing=packing, eval_examples=0)
        data[place] = pickle.loads(pickle.dumps(prepare(config, tokenizer).train))
    train = data["now"]
    named = {name for index in range(len(train)) for name in train.records_of(index)}
    assert len(named) == 40
    for index in range(len(train)):
        for name in train.records_of(index):
            file, _, line, _, own = name.split(" ")
            record = json.loads(Path(file).read_text().splitlines()[int(line) - 1])
            assert own == f"{record['id']})"
            assert str(tmp_path / "now") in file
            text = tokenizer.decode(train[index]["input_ids"])
            assert record["conversations"][0]["value"][:20] in text


def test_an_almost_empty_row_costs_what_its_padding_is_long_and_not_the_square_of_it():
    collate = CollateDocuments(pad_token_id=0, length=4096)
    text = {name: torch.arange(7) for name in ("input_ids", "labels", "position_ids")}
    batch = collate([text])
    lengths = lengths_of_batch(batch)
    assert lengths[0] == 7 and sum(lengths) == 4096
    assert max(lengths) == LONGEST_PADDING_DOCUMENT
    assert (batch["labels"][0, 7:] == -100).all()


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
    assert "60 records" in describe_statistics(statistics)


def test_loss_weights_come_with_the_batch_only_where_messages_have_them(chats, tmp_path, tokenizer):
    record = json.loads(json.dumps(sharegpt(1, turns=2)))  # no turn is another one twice
    record["conversations"][1]["weight"] = 0.25
    path = tmp_path / "weighted.json"
    path.write_text(json.dumps([record] * 3))
    config = settings(path, tmp_path, eval_examples=0)
    prepared = prepare_data(config, tokenizer, context_length=512, seed=1)
    batch = prepared.collate([prepared.train[0]])
    weights, labels = batch["loss_weights"], batch["labels"]
    assert weights.dtype == torch.float32 and weights.shape == labels.shape
    assert set(weights[labels != -100].tolist()) == {0.25, 1.0}
    assert (weights[labels == -100] == 0).all()
    assert "loss_weights" not in prepare(settings(chats, tmp_path), tokenizer).train[0]


def test_the_pieces_of_a_conversation_count_once_together(tmp_path, tokenizer):
    path = tmp_path / "long.json"
    path.write_text(json.dumps([sharegpt(n, turns=1 + n % 9) for n in range(20)]))
    config = settings(path, tmp_path, eval_examples=0, overlong=Overlong.split)
    prepared = prepare_data(config, tokenizer, context_length=LENGTH, seed=1, with_shares=True)
    assert prepared.statistics.train.split > 3, "nothing to test"
    assert isinstance(prepared.train, PackedDataset)
    examples = prepared.train.examples
    together: dict[int, float] = {}
    for index, document in enumerate(examples.documents):
        row, item = int(examples.fitted.row[document]), examples[index]
        assert (item["conversation_share"] > 0).equal(item["labels"] != -100)
        together[row] = together.get(row, 0) + float(item["conversation_share"].sum())
    assert len(together) == 20
    assert list(together.values()) == pytest.approx([1.0] * 20)
    batch = prepared.collate([prepared.train[n] for n in range(len(prepared.train))])
    assert float(batch["conversation_share"].sum()) == pytest.approx(20)


def test_only_the_last_turn_is_supervised_when_asked(chats, tmp_path, tokenizer):
    config = settings(
        chats,
        tmp_path,
        train_on=TrainOn.last_turn,
        packing=Packing.none,
        overlong=Overlong.drop,
    )
    for item in prepare(config, tokenizer).train:
        text = tokenizer.decode(item["labels"][item["labels"] != -100])
        assert text.count("<|im_end|>") == 1
        assert tokenizer.decode(item["input_ids"]).endswith(text + "\n")


def test_a_held_out_set_of_its_own_takes_nothing_from_the_training_set(chats, tmp_path, tokenizer):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(sharegpt(n)) for n in range(100, 107)))
    prepared = prepare(settings(chats, tmp_path, eval=str(other)), tokenizer)
    assert prepared.statistics.train.examples == 60
    assert prepared.statistics.eval.examples == 7
    assert prepared.statistics.eval_read.records == 7


@pytest.mark.parametrize(("weight", "least", "most"), [(2, 80, 80), (0.5, 8, 32)])
def test_weights_hold_for_a_held_out_set_of_its_own(
    chats, tmp_path, tokenizer, weight, least, most
):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(sharegpt(n)) for n in range(100, 140)))
    held_out = [{"path": str(other), "weight": weight}]
    prepared = prepare(settings(chats, tmp_path, eval=held_out), tokenizer)
    assert least <= prepared.statistics.eval.examples <= most
    assert prepared.statistics.eval_read.records == 40


def test_sources_with_weights_are_repeated(chats, tmp_path, tokenizer):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(sharegpt(n)) for n in range(100, 107)))
    sources = [{"path": str(chats)}, {"path": str(other), "weight": 3}]
    prepared = prepare(settings(chats, tmp_path, train=sources, eval_examples=0), tokenizer)
    assert prepared.statistics.train.examples == 60 + 3 * 7


def test_a_split_conversation_keeps_its_system_prompt_in_every_chunk(tmp_path, tokenizer):
    record = sharegpt(1, turns=12)
    record["system"] = "Be kind."
    path = tmp_path / "one.json"
    path.write_text(json.dumps([record]))
    config = settings(path, tmp_path, eval_examples=0, packing=Packing.none)
    prepared = prepare(config, tokenizer)
    assert len(prepared.train) > 2 and prepared.statistics.train.split == 1
    head = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat about"
    for item in prepared.train:
        assert tokenizer.decode(item["input_ids"]).startswith(head)


def test_repaired_conversations_are_counted_and_bad_ones_too(tmp_path, tokenizer):
    good = sharegpt(1)
    repaired = {"conversations": [{"from": "gpt", "value": "Hi"}, *sharegpt(2)["conversations"]]}
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps(good), "{broken", json.dumps(repaired), json.dumps({"title": "x"})]
    path.write_text("\n".join(lines) + "\n")
    config = settings(path, tmp_path, eval_examples=0, on_bad_record=OnBadRecord.skip)
    read = prepare(config, tokenizer).statistics.train_read
    assert read.skipped == {"broken_json": 1, "not_this_format": 1}
    assert read.repaired == {"leading_answer_removed": 1}
    assert f"{path} line 2" in read.examples_of_skipped[0]


def test_what_the_template_refuses_is_a_bad_record(chats, tmp_path):
    strict = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}"
    tokenizer = byte_level(strict + CHATML)
    with pytest.raises(DataError, match=r"record 2, line .*refuses the conversation: too long"):
        prepare(settings(chats, tmp_path), tokenizer)
    config = settings(chats, tmp_path, on_bad_record=OnBadRecord.skip)
    assert prepare(config, tokenizer).statistics.train_read.skipped == {"template_refused": 45}


@pytest.mark.parametrize("on_bad_record", list(OnBadRecord))
def test_a_model_without_a_chat_template_needs_the_name_of_one(chats, tmp_path, on_bad_record):
    tokenizer = byte_level(CHATML)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template") as error:
        prepare(settings(chats, tmp_path, on_bad_record=on_bad_record), tokenizer)
    assert all(name in str(error.value) for name in template_names())


def test_a_context_too_short_for_everything_is_an_error(chats, tmp_path, tokenizer):
    config = settings(chats, tmp_path, overlong=Overlong.drop)
    message = r"leaves nothing to train on at context_length=8: 60 records, .*dropped [\d,]+"
    with pytest.raises(DataError, match=message):
        prepare_data(config, tokenizer, context_length=8, seed=1)


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
def test_a_file_without_a_record_is_said_to_be_empty(tmp_path, tokenizer, text):
    (tmp_path / "chats.json").write_text(text)
    with pytest.raises(DataError, match=r"chats\.json has no record: a file that is read is empty"):
        prepare(settings(tmp_path / "chats.json", tmp_path), tokenizer)


def test_datasets_travel_to_loader_processes(chats, tmp_path, tokenizer):
    prepared = prepare(settings(chats, tmp_path), tokenizer)
    again = pickle.loads(pickle.dumps(prepared.train))
    assert torch.equal(again[0]["input_ids"], prepared.train[0]["input_ids"])
    loader = torch.utils.data.DataLoader(
        prepared.train, batch_size=2, num_workers=2, collate_fn=prepared.collate
    )
    direct = [prepared.train[0]["input_ids"], prepared.train[1]["input_ids"]]
    for row, expected in zip(next(iter(loader))["input_ids"], direct, strict=True):
        assert torch.equal(row[: len(expected)], expected)


def test_text_and_prompt_completion_train_too(tmp_path, tokenizer):
    text, table = tmp_path / "book.txt", tmp_path / "pairs.csv"
    text.write_text("The capital of France is Paris. " * 40)
    table.write_text("prompt,completion\nThe capital is, Paris\n")
    config = settings(text, tmp_path, eval_examples=0, packing=Packing.none)
    config.train = [str(text), str(table)]
    *chunks, pair = prepare(config, tokenizer).train
    assert sum(len(chunk["input_ids"]) for chunk in chunks) > LENGTH
    assert all((chunk["labels"][1:] != -100).all() for chunk in chunks)
    # Nothing comes before a document's first token, or in a packed row another document does.
    assert all(chunk["labels"][0] == -100 for chunk in chunks)
    supervised = tokenizer.decode(pair["labels"][pair["labels"] != -100])
    assert supervised == " Paris<|im_end|>"


def test_jobs_of_every_context_length_can_be_measured_on_the_same_tokens(
    chats, tmp_path, tokenizer
):
    measured = []
    for context_length in (48, 96, 4096):
        held = prepare_data(
            settings(chats, tmp_path), tokenizer, context_length=context_length, seed=42,
            eval_length=48,
        ).eval  # fmt: skip
        assert held is not None
        measured.append(
            [
                (item["input_ids"].tolist(), item["labels"].tolist())
                for item in (held[i] for i in range(len(held)))
            ]
        )
    assert measured[0] == measured[1] == measured[2]
    assert max(len(ids) for ids, _ in measured[0]) <= 48
