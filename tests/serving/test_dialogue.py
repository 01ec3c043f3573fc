"""A chat: commands, history files that training reads, and a context that is full."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from sft_app.data.read.read_files import read_file
from sft_app.data.read.record import Record
from sft_app.serving.dialogue.dialogue_turns import DialogueTurns, prompt_ids
from sft_app.serving.dialogue.session import Session
from sft_app.serving.dialogue.speaker import Sampling, Speaker

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speaker(tiny_model: Path) -> Speaker:
    return Speaker(tiny_model, CPU)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def session(speaker: Speaker, said: list[str]) -> Session:
    return Session([speaker], Sampling(temperature=0, max_new_tokens=5), said.append)


def test_an_answer_comes_in_pieces_and_counts_what_is_used(
    session: Session, said: list[str]
) -> None:
    assert session.take("Hi")
    (conversation,) = session.conversations
    assert [turn["role"] for turn in conversation.messages] == ["user", "assistant"]
    assert "of 64 tokens" in said[-1]
    assert session.speakers[0].answer_length <= 5


def test_the_same_seed_says_the_same(speaker: Speaker) -> None:
    conversation = DialogueTurns([{"role": "user", "content": "a"}])
    hot = Sampling(temperature=5.0, max_new_tokens=8, seed=1)
    assert list(speaker.answer(conversation, hot)) == list(speaker.answer(conversation, hot))


def test_commands(session: Session, said: list[str], tmp_path: Path) -> None:
    session.take("/system Be brief.")
    session.take("Hi")
    session.take(f"/save {tmp_path / 'chat.jsonl'}")
    (conversation,) = session.conversations
    before = [dict(turn) for turn in conversation.messages]
    session.take("/reset")
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    session.take(f"/load {tmp_path / 'chat.jsonl'}")
    assert conversation.messages == before
    session.take("/system")
    assert conversation.messages[0]["role"] == "user"
    session.take("/load /no/such/file")
    assert "No such file" in said[-1]
    session.take("/nonsense")
    assert "not known" in said[-1]
    assert not session.take("/exit")
    (record,) = read_file(tmp_path / "chat.jsonl")
    assert isinstance(record, Record) and record.value["messages"] == before


def test_a_full_context_drops_the_oldest_and_says_so(session: Session, said: list[str]) -> None:
    for _ in range(3):
        session.take("Hi!")
    assert any("the oldest 1 question" in text for text in said)
    speaker = session.speakers[0]
    assert speaker.prompt_length + speaker.answer_length <= 64
    session.take("x" * 80)
    assert "ask a shorter one" in said[-1]
    assert session.conversations[0].messages[-1]["role"] == "assistant", "it was not kept"


def test_two_models_answer_side_by_side(speaker: Speaker, said: list[str]) -> None:
    session = Session([speaker, speaker], Sampling(temperature=0, max_new_tokens=2), said.append)
    session.take("Hi")
    assert said.count(f"[{speaker.name}]\n") == 2
    assert all(len(c.messages) == 2 for c in session.conversations)


def test_an_interrupted_answer_is_kept_as_far_as_it_came(
    session: Session, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> Iterator[str]:
        yield "Hel"
        raise KeyboardInterrupt

    monkeypatch.setattr(session.speakers[0], "answer", interrupted)
    session.take("Hi")
    assert session.conversations[0].messages[-1]["content"] == "Hel"


def test_the_prompt_has_one_begin_token(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = prompt_ids(DialogueTurns([{"role": "user", "content": "Hi"}]), tokenizer)
    assert tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
