"""An exercise, cut to exactly so many tokens."""

import random
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from sft_app.evaluation.tasks.encoder import Encoder
from sft_app.evaluation.tasks.exercise import Exercise, Ids, Sample
from sft_app.evaluation.tasks.haystack import Haystack
from sft_app.evaluation.tasks.prompt_frame import PromptFrame


class TooShort(ValueError):
    """Says that an exercise does not fit a length."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed
        """Tokens that it takes without any text around it."""


@dataclass(frozen=True)
class Material:
    """What samples of all tasks and lengths are made of, tokenised once."""

    encoder: Encoder
    frame: PromptFrame
    haystack: Haystack

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer."""
        return self.encoder.tokenizer


def assemble(exercise: Exercise, material: Material, length: int, rng: random.Random) -> Sample:
    """Return `exercise` as exactly `length` tokens with its answer; raise TooShort if it cannot."""
    encoder, frame = material.encoder, material.frame
    head = frame.ids_before(encoder) + encoder.encode_after(
        frame.before[-1:], f"{exercise.intro}\n\n"
    )
    question = f"\n\n{exercise.question}{frame.after}{exercise.answer_prefix}"
    tail = encoder.encode_after(".", question)
    answer: list[int] = []
    spans: list[tuple[int, int]] = []
    said = exercise.answer_prefix or frame.after
    for number, reference in enumerate(exercise.references):
        piece = (
            f", {reference}" if number else f" {reference}" if exercise.answer_prefix else reference
        )
        ids = encoder.encode_after(said, piece)
        spans.append((len(answer), len(answer) + len(ids)))
        answer += ids
        said += piece
    needles = [
        (needle.depth, encoder.encode_after(".", f" {needle.text}")) for needle in exercise.needles
    ]
    fixed = len(head) + len(tail) + len(answer)
    room = length - fixed
    body = _body(exercise, material, room, needles, rng)
    if body is None:
        raise TooShort(fixed + sum(len(ids) for _, ids in needles))
    parts = [np.array(part, dtype=np.int64) for part in (head, body, tail, answer)]
    input_ids = np.concatenate(parts)
    assert len(input_ids) == length
    prompt_length = length - len(answer)
    return Sample(
        input_ids=input_ids,
        prompt_length=prompt_length,
        references=exercise.references,
        spans=tuple((prompt_length + begin, prompt_length + end) for begin, end in spans),
        depth=exercise.depth,
    )


def _body(
    exercise: Exercise,
    material: Material,
    room: int,
    needles: list[tuple[float, list[int]]],
    rng: random.Random,
) -> Ids | None:
    if room < 0:
        return None
    if exercise.fill is not None:
        return exercise.fill(room)
    if room < sum(len(ids) for _, ids in needles):
        return None
    return material.haystack.cut(room, needles, rng)
