"""Rows of tokens to pre-train on: windows of a text, some of which begin with a retrieval."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sft_app.pretrain.retrieval_text import TASKS, fitting_retrieval, retold_facts
from sft_app.pretrain.settings import PretrainSettings
from sft_app.pretrain.train_tokenizer import END, as_chatml

SHORT_TASKS = ("passkey", "passkey", "niah_single")
SHARE_RETOLD = 0.15
"""Of the retrievals: facts that are all told again."""


@dataclass(frozen=True)
class Batch:
    """Rows of a step."""

    tokens: Tensor
    """LongTensor [B, T]; each is predicted."""
    answers: Tensor
    """BoolTensor [B, T]: the number that a retrieval asks for, where it is said again."""

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
        for row in range(size):
            if is_short or self.rng.random() < settings.retrieval_share:
                told, number = self._retrieval(length, is_short=is_short)
                rest = tokens[row, : length - len(told)].clone()
                tokens[row] = torch.cat([torch.tensor(told), rest])
                answers[row, number] = True
        return Batch(tokens=tokens, answers=answers)

    def _retrieval(self, length: int, *, is_short: bool) -> tuple[list[int], slice]:
        """Return the tokens of a conversation, and where in them its last number is."""
        tasks = SHORT_TASKS if is_short else TASKS
        if self.rng.random() < SHARE_RETOLD:
            chat = retold_facts(self.rng)
        else:
            chat = fitting_retrieval(self.rng.choice(tasks), length, self.tokenizer, self.rng)
        ids = self._encode(as_chatml(chat.conversation.messages))
        if len(ids) > length:  # facts with the longest names, in a short row
            return self._retrieval(length, is_short=is_short)
        answer = chat.conversation.messages[1].content
        said = answer.rstrip(".")
        end = len(ids) - len(self._encode(f"{END}\n")) - (len(answer) - len(said))
        return ids, slice(end - len(said.rsplit(" ", 1)[-1]), end)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
