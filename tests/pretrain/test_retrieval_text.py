"""Needles as training text: in the evaluation's words, with answers that stand in the text."""

import random
import re
from dataclasses import astuple

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sft_app.pretrain.retrieval_text import (
    TASKS,
    fitting_retrieval,
    num_tokens,
    retrieval_chat,
)
from sft_app.pretrain.settings import RECIPES, PretrainSettings, load_settings, recipes
from sft_app.pretrain.train_tokenizer import as_chatml, learn_tokenizer
from sft_app.pretrain.training_rows import Batch, TrainingRows


@pytest.fixture(scope="module")
def settings() -> PretrainSettings:
    return load_settings(RECIPES / "needle_llama.yaml")


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_is_one_of_the_numbers_in_the_text(task: str) -> None:
    question, answer = retrieval_chat(task, 5, random.Random(1)).conversation.messages
    number = answer.content.rsplit(" ", 1)[-1]
    assert number.isdigit()
    assert number in question.content
    key = answer.content.removeprefix("The access number of ").partition(" is ")[0]
    if task != "passkey":
        assert f"The access number of {key} is {number}." in question.content


def test_no_two_conversations_ask_for_the_same_number() -> None:
    rng = random.Random(1)
    answers = [
        retrieval_chat("passkey", 0, rng).conversation.messages[1].content for _ in range(50)
    ]
    assert len(set(answers)) == 50


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Learned from the needles themselves, so that their words are tokens."""
    rng = random.Random(0)
    chats = [retrieval_chat(TASKS[n % 3], 10, rng) for n in range(300)]
    texts = [as_chatml(chat.conversation.messages) for chat in chats]
    return learn_tokenizer(texts, 700, 192, digit_tokens=True)


def test_every_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [t for t in tokenizer.tokenize("is 907") if t.isdigit()] == ["9", "0", "7"]


def test_a_retrieval_fits_the_length_that_it_is_made_for(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rng = random.Random(0)
    for task in TASKS:
        chat = fitting_retrieval(task, 192, tokenizer, rng)
        assert num_tokens(as_chatml(chat.conversation.messages), tokenizer) <= 192


def test_rows_are_whole_the_first_ones_short_and_the_same_for_a_seed(
    settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast
) -> None:
    stream = torch.arange(1000) % 300
    first, same = (TrainingRows(stream, tokenizer, settings).batch(1) for _ in range(2))
    assert first.tokens.shape == (24 * 192 // 104, 104)
    assert first.tokens.equal(same.tokens)
    later = TrainingRows(stream, tokenizer, settings).batch(settings.short_steps + 1)
    assert later.tokens.shape == (24, 192)


def test_the_answers_that_are_counted_are_the_numbers_asked_for(
    settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = TrainingRows(torch.arange(1000) % 300, tokenizer, settings)
    for step in (1, settings.short_steps + 1):
        batch = rows.batch(step)
        for tokens, asked, weights in zip(*astuple(batch), strict=True):
            if asked.any():
                numbers = tokenizer.decode(tokens[asked])
                assert numbers.isdigit()
                assert len(numbers) == 5 or len(numbers) % 7 == 0, "a pass key, or access numbers"
                answer = tokenizer.decode(tokens).partition("assistant\n")[2]
                assert re.sub(r"\D", "", answer.partition("<|im_end|>")[0]) == numbers
                assert weights[asked].eq(1).all()
                frame = weights[: asked.nonzero()[0]]
                assert frame.eq(1 if step == 1 else settings.frame_weight).all()
        certain = torch.nn.functional.one_hot(batch.tokens, len(tokenizer)).roll(-1, dims=1)
        assert batch.share_right(certain) == 1.0


def test_weights_are_shares_of_the_loss() -> None:
    """Against torch's own mean over the tokens that count."""
    tokens, logits = torch.tensor([[1, 2, 3, 0]]), torch.randn(1, 4, 5)
    weights = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    batch = Batch(tokens=tokens, answers=tokens > 2, weights=weights)
    wanted = torch.nn.functional.cross_entropy(logits[0, [0, 2]], torch.tensor([2, 0]))
    assert batch.loss(logits).item() == pytest.approx(wanted.item())


def test_every_recipe_can_be_read() -> None:
    assert {"tiny_llama", "needle_llama", "needle_llama_2m"} <= set(recipes())
    for name in recipes():
        assert load_settings(RECIPES / f"{name}.yaml").num_steps > 0
