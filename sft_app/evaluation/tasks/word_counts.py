"""Counting words: the common ones of a list, and the frequent ones of a Zipf distribution.

RULER's aggregation tasks (arXiv:2404.06654, section 3.3): ten words stand 30 times each among words
that stand 3 times; or the k-th word stands as often as a Zipf distribution with exponent 2.0 says,
the most frequent one being noise (three dots, which are to be ignored), and the three most frequent
ones after it are asked for. So that there is one right answer, the first are to be given in
alphabetical order, the second most frequent first.
"""

import random
from collections.abc import Sequence

import numpy as np

from sft_app.evaluation.tasks.encoder import Encoder
from sft_app.evaluation.tasks.exercise import Exercise, Ids
from sft_app.evaluation.tasks.words import made_words

NUM_COMMON, TIMES_COMMON, TIMES_UNCOMMON = 10, 30, 3
NUM_FREQUENT, ZIPF_EXPONENT = 3, 2.0
NUM_ZIPF_WORDS = 400
ZIPF_NOISE = "..."
"""The word of the first rank."""
NO_TOKEN = -1
INTRO = "Below is a list of words, many of which stand in it several times."


class WordLists:
    """Made-up words with their tokens, tokenised once for all samples."""

    def __init__(self, encoder: Encoder, longest: int) -> None:
        """`longest`: tokens of the longest list."""
        count = NUM_COMMON + NUM_ZIPF_WORDS + longest // TIMES_UNCOMMON // 2
        self.words = made_words(count)
        self.noise = len(self.words)
        """Its row in the table, behind those of the words."""
        ids = encoder.encode_words([*self.words, ZIPF_NOISE])
        self.lengths = np.array([len(row) for row in ids])
        self.table = np.full((len(ids), self.lengths.max()), NO_TOKEN)
        """Token ids of each word [W, longest], filled up with NO_TOKEN."""
        for row, word in zip(self.table, ids, strict=True):
            row[: len(word)] = word
        self.filler = encoder.encode_after("a", "\n")[:1]
        """A token for what no word fits any more."""

    def common_words(self, index: int, rng: random.Random) -> Exercise:
        """Ask for the ten words that stand 30 times."""
        chosen = np.random.default_rng(rng.getrandbits(64)).permutation(len(self.words))
        common, others = chosen[:NUM_COMMON], chosen[NUM_COMMON:]
        shuffle_seed = rng.getrandbits(64)
        return Exercise(
            intro=INTRO,
            question=f"Which {NUM_COMMON} words stand most often in the list? Give them in "
            "alphabetical order.",
            answer_prefix=f"The {NUM_COMMON} most common words are",
            references=tuple(sorted(self.words[i] for i in common)),
            fill=lambda room: self._fill_common(room, common, others, shuffle_seed),
        )

    def frequent_words(self, index: int, rng: random.Random) -> Exercise:
        """Ask for the most frequent words of a Zipf distribution, behind the noise."""
        chosen = [self.noise, *rng.sample(range(len(self.words)), NUM_ZIPF_WORDS - 1)]
        asked_for = chosen[1 : 1 + NUM_FREQUENT]
        shuffle_seed = rng.getrandbits(64)
        return Exercise(
            intro=INTRO,
            question=f"Which {NUM_FREQUENT} words stand most often in the list? Ignore the dots "
            f"'{ZIPF_NOISE}'. Give the most frequent one first.",
            answer_prefix=f"The {NUM_FREQUENT} most frequent words are",
            references=tuple(self.words[i] for i in asked_for),
            fill=lambda room: self._fill_frequent(room, chosen, shuffle_seed),
        )

    def _fill_common(self, room: int, common: Ids, others: Ids, seed: int) -> Ids | None:
        used = TIMES_COMMON * int(self.lengths[common].sum())
        ends = used + TIMES_UNCOMMON * np.cumsum(self.lengths[others])
        count = int(np.searchsorted(ends, room, side="right"))
        if used > room or count < NUM_COMMON:
            return None
        counts = [*((i, TIMES_COMMON) for i in common)]
        counts += [(i, TIMES_UNCOMMON) for i in others[:count]]
        return self._shuffled(counts, room, seed)

    def _fill_frequent(self, room: int, chosen: Sequence[int], seed: int) -> Ids | None:
        """As many occurrences as fit, shared out by rank; those of less than one are left out."""
        shares = np.arange(1, NUM_ZIPF_WORDS + 1) ** -ZIPF_EXPONENT
        shares /= shares.sum()
        total = int(room / (shares * self.lengths[np.array(chosen)]).sum())
        times = np.floor(shares * total).astype(int)
        if not (np.diff(times[: NUM_FREQUENT + 2]) < 0).all():
            return None  # too few for the words asked for, and the next, to differ
        counts = [(i, int(n)) for i, n in zip(chosen, times, strict=True) if n > 0]
        return self._shuffled(counts, room, seed)

    def _shuffled(self, counts: list[tuple[int, int]], room: int, seed: int) -> Ids:
        occurrences = np.repeat([i for i, _ in counts], [times for _, times in counts])
        order = np.random.default_rng(seed).permutation(occurrences)
        padded = self.table[order].ravel()
        ids = padded[padded != NO_TOKEN]
        missing = room - len(ids)
        assert missing >= 0
        return np.concatenate([ids, np.full(missing, self.filler[0])])
