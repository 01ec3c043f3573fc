"""Perplexity by context length: the same documents' first n tokens, every prediction weighed."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.evaluation.choose_lengths import Lengths
from sft_app.evaluation.language.by_length import evenly_spread, measure_by_length
from sft_app.evaluation.language.long_documents import (
    LongDocuments,
    long_documents,
    read_documents,
)
from sft_app.evaluation.token_reader import TokenReader

Compose = Callable[..., AppConfig]


def test_it_is_the_mean_over_all_predictions_inside_the_length(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    documents = tuple(torch.randint(0, 256, (3, 48)))
    long = LongDocuments(lengths=(16, 48), documents=documents)
    measured = measure_by_length(TokenReader(model, "cpu"), long)
    for length in (16, 48):
        nats = 0.0
        for document in documents:
            logits = model(document[None, :length]).logits[0].log_softmax(-1)
            nats -= sum(logits[i, document[i + 1]].item() for i in range(length - 1))
        found = measured[str(length)]
        assert found.tokens == 3 * (length - 1)
        assert found.examples == 3
        assert found.loss == pytest.approx(nats / found.tokens, rel=1e-5)
        assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_with_a_stride_the_end_of_each_window_counts(tiny_model: Path) -> None:
    """By hand: windows of 16 tokens, moved by 4, the last 4 of each."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    document = torch.randint(0, 256, (28,))
    nats = 0.0
    for start in (0, 4, 8, 12):
        logits = model(document[None, start : start + 16]).logits[0].log_softmax(-1)
        nats -= sum(logits[i - 1, document[start + i]].item() for i in range(12, 16))
    long = LongDocuments(lengths=(16,), documents=(document,))
    found = measure_by_length(TokenReader(model, "cpu"), long, stride=4)["16"]
    assert found.tokens == 16
    assert found.loss == pytest.approx(nats / 16, rel=1e-5)


@pytest.mark.parametrize("stride", [None, 4])
def test_a_digest_tells_which_text_was_measured(tiny_model: Path, stride: int | None) -> None:
    """Another longest length, and so other documents, or longer beginnings of the same ones."""
    reader = TokenReader(AutoModelForCausalLM.from_pretrained(tiny_model), "cpu")
    documents = tuple(torch.randint(0, 256, (3, 48)))

    def texts(*lengths: int, of: tuple[torch.Tensor, ...] = documents) -> list[str | None]:
        long = LongDocuments(lengths=lengths, documents=tuple(d[: lengths[-1]] for d in of))
        return [m.text for m in measure_by_length(reader, long, stride=stride).values()]

    assert texts(16, 48) == texts(16, 48)
    assert texts(16, 48) != texts(16, 48, of=documents[::-1])
    assert (texts(16, 48)[0] == texts(16, 32)[0]) is (stride is None), "windows reach further"


@pytest.mark.parametrize(("length", "stride"), [(16, 4), (32, 8), (48, 48)])
def test_windows_are_those_of_the_recipe_in_transformers_documentation(
    tiny_model: Path, length: int, stride: int
) -> None:
    """Perplexity of fixed-length models: labels of -100 before the last `stride` of each window.

    The recipe also scores the whole first window, whose tokens have less context; here they do not
    count, for which the end of what was scored begins a stride before the first window's end.
    """
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    document = torch.randint(0, 256, (96,))
    nats, tokens, scored_to = 0.0, 0, length - stride
    for begin in range(0, len(document) - length + 1, stride):
        end = begin + length
        labels = document[None, begin:end].clone()
        labels[:, : -(end - scored_to)] = -100
        counted = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = model(document[None, begin:end], labels=labels).loss.item()
        nats, tokens, scored_to = nats + loss * counted, tokens + counted, end
    long = LongDocuments(lengths=(length,), documents=(document,))
    reader = TokenReader(model, "cpu")
    found = measure_by_length(reader, long, stride=stride, max_windows=99)[str(length)]
    assert found.tokens == tokens
    assert found.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_of_many_windows_some_are_read_from_the_first_to_the_last() -> None:
    assert evenly_spread(range(0, 100, 10), 4) == [0, 30, 60, 90]
    assert evenly_spread(range(3), 4) == [0, 1, 2]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, tokens in (("a", 100), ("b", 40), ("c", 64)):  # a byte is a token
        (folder / f"{name}.txt").write_text(name * tokens)
    return folder


def test_only_documents_long_enough_for_all_lengths_count(
    compose: Compose, tiny_model: Path, texts: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = compose(f"evaluation.documents={texts}")
    long = long_documents(config, tokenizer, asked_for(32, 64))
    assert long.lengths == (32, 64)
    assert [tokenizer.decode(d) for d in long.documents] == ["a" * 64, "c" * 64]


def test_a_length_that_no_document_has_is_given_up_and_told(
    compose: Compose, tiny_model: Path, texts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = compose(f"evaluation.documents={texts}")
    long = long_documents(config, tokenizer, asked_for(32, 128))
    assert long.lengths == (32,)
    assert "no document has 128 tokens, the longest 100" in caplog.text


def test_documents_too_short_for_every_length_are_refused_where_nothing_else_is_measured(
    compose: Compose, tiny_model: Path, texts: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = compose(f"evaluation.documents={texts}")
    with pytest.raises(ConfigError, match="too short: no document has 128 tokens, the longest 100"):
        long_documents(config, tokenizer, asked_for(128, 256), needed=True)
    assert long_documents(config, tokenizer, asked_for(128, 256)).documents == ()


def test_held_out_conversations_are_used_whole_whatever_the_context(
    compose: Compose, tiny_model: Path, chat_file: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    chosen = []
    for overrides in (["context_length=16"], ["context_length=64", "seed=7"]):
        config = compose(
            f"data.train={chat_file}",
            f"data.cache_dir={tmp_path}",
            "data.eval_examples=20",
            *overrides,
        )
        chosen.append(long_documents(config, tokenizer, asked_for(16, 64)))
    assert chosen[0].lengths == chosen[1].lengths == (16, 64)
    assert len(chosen[0].documents) > 1
    for one, other in zip(chosen[0].documents, chosen[1].documents, strict=True):
        assert torch.equal(one, other)


def test_without_lengths_nothing_is_measured(compose: Compose, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert long_documents(compose(), tokenizer, asked_for()).documents == ()


def asked_for(*lengths: int) -> Lengths:
    return Lengths(values=lengths, asked_for=True)


def test_documents_that_are_no_utf_8_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("café")
    (tmp_path / "b.txt").write_bytes("café".encode("latin-1"))
    with caplog.at_level("INFO"):
        assert list(read_documents(str(tmp_path))) == ["café", "caf\N{REPLACEMENT CHARACTER}"]
    assert "1 of 2 documents is no UTF-8" in caplog.text and "b.txt" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1"),
        ("a.txt", "text".encode("utf-16")),
        ("a.txt.gz", b"\x1f\x8b\x08\x00broken"),
    ],
)
def test_a_document_that_holds_no_text_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"evaluation.documents: .*{name} "):
        list(read_documents(str(tmp_path / name)))
