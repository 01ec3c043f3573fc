"""Conversations in which something hidden is asked for: the evaluation's needles, as training text.

The wording is that of sft_app.evaluation.tasks, and so are the sentences around the needles; names,
numbers, places and order are drawn anew for every conversation, from other seeds than evaluation
draws from. What can be learned is to look things up; no answer can be learned by heart.
"""

import random
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from sft_app.data.chat.conversation import Conversation, Message
from sft_app.evaluation.tasks.build import BY_NAME
from sft_app.evaluation.tasks.exercise import Exercise
from sft_app.evaluation.tasks.haystack import NOISE
from sft_app.evaluation.tasks.needles import access_number
from sft_app.evaluation.tasks.words import new_keys, new_numbers
from sft_app.pretrain.settings import PretrainSettings
from sft_app.pretrain.train_tokenizer import as_chatml
from sft_app.pretrain.training_text import Chat

TASKS = ("passkey", "niah_single", "niah_multikey")
TOKENS_OF_A_SENTENCE = 8
"""Of noise, at the least: no more sentences are tried than a length has room for."""
RETRIEVALS_FOR_THE_TOKENIZER = 4000


def retold_facts(most: int, rng: random.Random) -> Chat:
    """State up to `most` access numbers, and have all of them repeated in another order.

    It is what a needle asks for, many times in one row, and so learned in a fraction of the steps.
    """
    count = rng.randint(1, most)
    keys, values = new_keys(count, rng), new_numbers(count, rng)
    facts = [access_number(key, value) for key, value in zip(keys, values, strict=True)]
    return _chat(" ".join(facts), " ".join(rng.sample(facts, count)))


def retrieval_chat(task: str, num_sentences: int, rng: random.Random) -> Chat:
    """Hide the needles of `task` at random places between `num_sentences` sentences of noise."""
    exercise: Exercise = BY_NAME[task](0, rng)
    text = [rng.choice(NOISE) for _ in range(num_sentences)]
    for needle in exercise.needles:
        text.insert(rng.randint(0, len(text)), needle.text)
    question = f"{exercise.intro}\n\n{' '.join(text)}\n\n{exercise.question}"
    return _chat(question, f"{exercise.answer_prefix} {', '.join(exercise.references)}")


def fitting_retrieval(
    task: str, length: int, tokenizer: PreTrainedTokenizerBase, rng: random.Random
) -> Chat:
    """Return a retrieval of at most `length` tokens, and of as few as chance wills.

    `length` must have room for the needles, or there is no end to trying.
    """
    most = length // TOKENS_OF_A_SENTENCE
    while True:
        chat = retrieval_chat(task, rng.randint(0, most), rng)
        if num_tokens(as_chatml(chat.conversation.messages), tokenizer) <= length:
            return chat
        most = max(0, most - 1)


def tokenizer_texts(texts: list[str], settings: PretrainSettings) -> Iterator[str]:
    """Yield what the tokenizer learns from: mostly retrievals, whose words become tokens."""
    if not settings.retrieval_share:
        yield from texts
        return
    yield from texts[: len(texts) // 8]
    rng = random.Random(f"tokenizer/{settings.seed}")
    for _ in range(RETRIEVALS_FOR_THE_TOKENIZER):
        yield as_chatml(retrieval_chat(rng.choice(TASKS), 10, rng).conversation.messages)


def tuning_retrievals(tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings) -> list[Chat]:
    """Return retrievals to fine-tune on, at longer contexts than the model was pre-trained for."""
    rng = random.Random(f"tuning/{settings.seed}")
    lengths = settings.train_retrieval_lengths
    return [
        fitting_retrieval(rng.choice(TASKS), lengths[number % len(lengths)], tokenizer, rng)
        for number in range(settings.train_retrievals)
    ]


def num_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the tokens of a text."""
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _chat(question: str, answer: str) -> Chat:
    return Chat(
        record={
            "conversations": [
                {"from": "human", "value": question},
                {"from": "gpt", "value": answer},
            ]
        },
        conversation=Conversation(
            messages=[
                Message(role="user", content=question),
                Message(role="assistant", content=answer),
            ]
        ),
    )
