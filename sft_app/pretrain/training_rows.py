"""Rows of tokens to pre-train on: windows of a text, some of which begin with a retrieval."""

import random
import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from sft_app.pretrain.retrieval_text import TASKS, fitting_retrieval, retold_facts
from sft_app.pretrain.settings import PretrainSettings
from sft_app.pretrain.train_tokenizer import as_chatml

SHORT_TASKS = ("passkey", "passkey", "niah_single")
LONG_TASKS = (*TASKS, "niah_multikey")
SHARE_RETOLD_SHORT, SHARE_RETOLD = 0.15, 0.35
"""Of the retrievals in short rows, and in long ones: facts that are all told again."""
MOST_FACTS_SHORT, MOST_FACTS = 2, 5
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Batch:
    """Rows of a step."""

    tokens: Tensor
    """LongTensor [B, T]; each is predicted."""
    answers: Tensor
    """BoolTensor [B, T]: the numbers that a retrieval asks for, where they are said again."""
    weights: Tensor
    """FloatTensor [B, T]: what a token counts for in the loss."""

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean cross-entropy of the tokens as weighted; logits: [B, T, V]."""
        each = cross_entropy(
            logits[:, :-1].flatten(0, 1), self.tokens[:, 1:].flatten(), reduction="none"
        )
        weights = self.weights[:, 1:].flatten()
        return (each * weights).sum() / weights.sum()

    def share_right(self, logits: Tensor) -> float:
        """Return how many of the answers' tokens the logits [B, T, V] foretell; nan without any."""
        asked = self.answers[:, 1:]
        return float((logits[:, :-1].argmax(-1) == self.tokens[:, 1:])[asked].float().mean())


class TrainingRows:
    """Draws batches without end; the same ones for the same seed.

    A row is `context_length` tokens of the text. With probability `retrieval_share` its beginning
    is a conversation in which something hidden is asked for, as long as chance wills up to the
    whole row. Names and numbers are told again a few words further on: copying over a fixed
    distance is learned first, looking up over any distance then.
    """

    def __init__(
        self, stream: Tensor, tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings
    ) -> None:
        """`stream`: LongTensor [N], the text."""
        self.stream = stream
        self.tokenizer = tokenizer
        self.settings = settings
        self.rng = random.Random(f"pretraining/{settings.seed}")
        self.generator = torch.Generator().manual_seed(settings.seed)

    def batch(self, step: int) -> Batch:
        """Return what is trained on in a step, from 1.

        The first `short_steps` are of single needles alone, in rows of `short_length`, as many as
        have the tokens of the longer ones: what is far apart is learned from what is near.
        """
        settings = self.settings
        size, length = settings.batch_size, settings.context_length
        is_short = step <= settings.short_steps
        if is_short:
            size, length = size * length // settings.short_length, settings.short_length
        starts = torch.randint(len(self.stream) - length, (size,), generator=self.generator)
        tokens = self.stream[starts[:, None] + torch.arange(length)]
        answers = torch.zeros_like(tokens, dtype=torch.bool)
        weights = torch.ones(size, length)
        for row in range(size):
            if is_short or self.rng.random() < settings.retrieval_share:
                told, asked = self._retrieval(length, is_short=is_short)
                rest = tokens[row, : length - len(told)].clone()
                tokens[row] = torch.cat([torch.tensor(told), rest])
                answers[row, : len(told)] = torch.tensor(asked)
                if not is_short:
                    weights[row, : len(told)] = settings.frame_weight
        weights[answers] = 1.0
        return Batch(tokens=tokens, answers=answers, weights=weights)

    def _retrieval(self, length: int, *, is_short: bool) -> tuple[list[int], list[bool]]:
        """Return the tokens of a conversation, and which of them are numbers in its answer."""
        tasks = SHORT_TASKS if is_short else LONG_TASKS
        if self.rng.random() < (SHARE_RETOLD_SHORT if is_short else SHARE_RETOLD):
            chat = retold_facts(MOST_FACTS_SHORT if is_short else MOST_FACTS, self.rng)
        else:
            chat = fitting_retrieval(self.rng.choice(tasks), length, self.tokenizer, self.rng)
        text = as_chatml(chat.conversation.messages)
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        if len(ids) > length:  # facts with the longest names
            return self._retrieval(length, is_short=is_short)
        answer = text.rindex(chat.conversation.messages[1].content)
        numbers = {place for n in _NUMBER.finditer(text, answer) for place in range(*n.span())}
        return ids, [begin in numbers for begin, _ in encoded["offset_mapping"]]
