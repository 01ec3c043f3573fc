"""The tasks by name, and their samples."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence

from sft_app.common.errors import ConfigError
from sft_app.config.schema.evaluation import TASK_NAMES
from sft_app.evaluation.tasks.assemble import Material, TooShort, assemble
from sft_app.evaluation.tasks.exercise import Exercise, Sample
from sft_app.evaluation.tasks.needles import (
    niah_multikey,
    niah_multiquery,
    niah_multivalue,
    niah_single,
    passkey,
)
from sft_app.evaluation.tasks.variable_tracking import variable_tracking
from sft_app.evaluation.tasks.word_counts import WordLists

log = logging.getLogger(__name__)

Ask = Callable[[int, random.Random], Exercise]
"""From the number of a sample and its random source to the exercise."""

BY_NAME: dict[str, Ask] = {
    "niah_single": niah_single,
    "niah_multikey": niah_multikey,
    "niah_multivalue": niah_multivalue,
    "niah_multiquery": niah_multiquery,
    "variable_tracking": variable_tracking,
    "passkey": passkey,
}
LONG = 4096
"""Tokens; what fits more is found out with a few samples. Below, each one's own names count."""
ON_WORD_LISTS = ("common_words", "frequent_words")
assert {*BY_NAME, *ON_WORD_LISTS} == set(TASK_NAMES)


class TaskSamples:
    """Samples of tasks at lengths, made when they are asked for; the same for the same seed."""

    def __init__(
        self,
        material: Material,
        tasks: Sequence[str],
        lengths: Sequence[int],
        *,
        samples: int,
        seed: int,
    ) -> None:
        """`lengths` in tokens, `samples` of each task at each length. Checks no lengths yet."""
        self.material = material
        self.tasks = tuple(tasks)
        self.lengths = tuple(sorted(lengths))
        self.num_samples = samples
        self.seed = seed
        self.asks = dict(BY_NAME)
        if set(tasks) & set(ON_WORD_LISTS):
            lists = WordLists(material.encoder, max(lengths))
            self.asks |= {
                "common_words": lists.common_words,
                "frequent_words": lists.frequent_words,
            }
        self.unfit: set[tuple[str, int]] = set()
        """Pairs of task and length that are left out: the task does not fit."""

    def of(self, task: str, length: int) -> Iterator[Sample]:
        """Make the samples of one task at one length."""
        return (self.sample(task, length, index) for index in range(self.num_samples))

    def sample(self, task: str, length: int, index: int) -> Sample:
        """Make one sample of exactly `length` tokens; raise TooShort where it does not fit."""
        rng = random.Random(f"{self.seed}/{task}/{length}/{index}")
        return assemble(self.asks[task](index, rng), self.material, length, rng)

    def leave_out_unfit(self, *, strict: bool) -> None:
        """Find the pairs of task and length that do not fit, and name them in the log.

        Raises ConfigError, if `strict`, for a task that fits none of the lengths.
        """
        left_out: dict[str, list[str]] = {}
        for task in self.tasks:
            too_short = [length for length in self.lengths if not self._fits(task, length)]
            if strict and len(too_short) == len(self.lengths):
                raise ConfigError(
                    f"evaluation.lengths={list(self.lengths)}: the task {task} with this model's "
                    f"tokenizer does not fit {too_short[-1]:,} tokens; set longer lengths, or "
                    "leave it out of evaluation.tasks."
                )
            self.unfit |= {(task, length) for length in too_short}
            if too_short:
                where = " and ".join(f"{length:,}" for length in too_short)
                left_out.setdefault(where, []).append(task)
        if left_out:
            log.log(
                logging.WARNING if strict else logging.INFO,
                "evaluation      left out, where they do not fit: %s tokens",
                "; ".join(f"{', '.join(tasks)} at {where}" for where, tasks in left_out.items()),
            )

    def pairs(self) -> list[tuple[str, int]]:
        """List what is measured: every task at every length that it fits."""
        every = [(task, length) for task in self.tasks for length in self.lengths]
        return [pair for pair in every if pair not in self.unfit]

    def _fits(self, task: str, length: int) -> bool:
        try:
            for index in range(min(self.num_samples, 5) if length > LONG else self.num_samples):
                self.sample(task, length, index)
        except TooShort:
            return False
        return True
