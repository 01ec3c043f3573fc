"""The long text that needles are hidden in: tokenised once, then only sliced."""

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.evaluation.tasks.exercise import Ids

NOISE = (
    "The river runs slowly past the old mill.",
    "A cart stands in the yard, and nobody moves it.",
    "In the morning the fog hangs over the meadow.",
    "The baker opens the shutters before sunrise.",
    "Two dogs sleep under the long table.",
    "The road to the harbour turns left after the bridge.",
    "Rain has been falling since the middle of the week.",
    "Somebody has left a lamp burning in the hall.",
    "The clock on the tower is a little late again.",
    "Fields of barley reach as far as the hills.",
    "A letter lies on the desk, still unopened.",
    "The ferry crosses the lake four times a day.",
    "Children count the wagons of a passing train.",
    "The gardener ties the roses to the wall.",
    "Snow stays longest on the northern slope.",
    "The library closes early in the summer.",
    "An owl lives in the roof of the barn.",
    "The wind turns, and the sails hang down.",
)
SENTENCES_OF_NOISE = 400
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Haystack:
    """A stream of tokens, with the places where sentences begin."""

    def __init__(self, tokens: Ids, starts: Ids, name: str) -> None:
        self.tokens = tokens
        """[N]."""
        self.starts = starts
        """Ascending positions in `tokens` at which a needle may be put."""
        self.name = name
        """Which text it is, for people."""

    def cut(
        self, length: int, needles: Sequence[tuple[float, list[int]]], rng: random.Random
    ) -> Ids:
        """Return exactly `length` tokens: a random stretch of the text with `needles` in it.

        `needles`: depth from 0 to 1, and token ids; each stands at the beginning of the sentence
        nearest to its depth. They must fit.
        """
        own = length - sum(len(ids) for _, ids in needles)
        assert 0 <= own <= len(self.tokens)
        begin = int(rng.randrange(len(self.tokens) - own + 1))
        begin = int(self.starts[np.searchsorted(self.starts, begin, side="right") - 1])
        text = self.tokens[begin : begin + own]
        parts: list[Any] = []
        done = 0
        for depth, ids in sorted(needles, key=lambda needle: needle[0]):
            place = max(done, self._boundary(begin, own, depth))
            parts += [text[done:place], np.array(ids, dtype=np.int64)]
            done = place
        return np.concatenate([*parts, text[done:]])

    def _boundary(self, begin: int, length: int, depth: float) -> int:
        """Beginning of the sentence nearest to `depth` in a stretch, counted from its begin."""
        wanted = begin + round(depth * length)
        after = int(np.searchsorted(self.starts, wanted))
        near = [int(s) for s in self.starts[max(0, after - 1) : after + 1]]
        inside = [s - begin for s in near if begin <= s <= begin + length]
        return min(inside, key=lambda place: abs(place + begin - wanted), default=length)


def noise_haystack(tokenizer: PreTrainedTokenizerBase, longest: int, seed: int) -> Haystack:
    """Make a haystack of the application's own sentences, repeated in random order."""
    rng = random.Random(f"noise/{seed}")
    text = "".join(f"{rng.choice(NOISE)} " for _ in range(SENTENCES_OF_NOISE))
    tokens, starts = _tokenised(tokenizer, text)
    # From the second sentence, which begins with a space as every other one, to the last but one.
    tokens, starts = tokens[starts[1] : starts[-1]], starts[1:-1] - starts[1]
    times = -(-2 * longest // len(tokens))
    shifted = [starts + turn * len(tokens) for turn in range(times)]
    return Haystack(np.tile(tokens, times), np.concatenate(shifted), "noise sentences")


def document_haystack(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], longest: int, name: str
) -> Haystack:
    """Make a haystack of texts, one after the other, as many as are needed.

    Raises ConfigError when all of them together are shorter than `longest` tokens.
    """
    all_tokens: list[Ids] = []
    all_starts: list[Ids] = []
    total = 0
    for text in texts:
        tokens, starts = _tokenised(tokenizer, text)
        all_tokens.append(tokens)
        all_starts.append(starts + total)
        total += len(tokens)
        if total >= 4 * longest:
            break
    if total < longest:
        raise ConfigError(
            f"evaluation.documents={name} is too short: {total:,} tokens, and a haystack of "
            f"{longest:,} is wanted; name more text, or leave evaluation.documents out for noise "
            "sentences, or set shorter evaluation.lengths."
        )
    return Haystack(np.concatenate(all_tokens), np.concatenate(all_starts), name)


def _tokenised(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[Ids, Ids]:
    """Token ids of a text, and where its sentences begin; 0 always does."""
    begins = np.array([0, *(match.start() for match in _SENTENCE_END.finditer(text))])
    if not tokenizer.is_fast:  # which cannot tell where a token stands in the text
        ids = np.array(
            tokenizer.encode(text, add_special_tokens=False, verbose=False), dtype=np.int64
        )
        return ids, np.arange(0, len(ids), 16)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = np.array(encoded["input_ids"], dtype=np.int64)
    ends = np.array([end for _, end in encoded["offset_mapping"]])
    starts = np.unique(np.searchsorted(ends, begins, side="right"))
    return ids, starts[starts < max(1, len(ids))]
