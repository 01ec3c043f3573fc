"""Text to token ids, piece by piece, as they would stand in the whole text."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from sft_app.evaluation.tasks.exercise import Ids


class Encoder:
    """Tokenises pieces of a text, each with regard to what stands before it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text` alone, without BOS or EOS."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def encode_after(self, context: str, text: str) -> list[int]:
        """Return the ids of `text` where it follows `context`.

        Tokenizers put a space in front of what begins, and join what belongs together; so the two
        are tokenised together, and the ids of the context taken off. Where both share a token, the
        last character of the context has to do, and then a line break, which shares none.
        """
        for before in (context, context[-1:], "\n"):
            if before:
                known = self._encode_context(before)
                ids = self.encode(before + text)
                if ids[: len(known)] == known:
                    return ids[len(known) :]
        return self.encode(text)

    def encode_words(self, words: list[str]) -> list[Ids]:
        """Return the ids of each word where it follows another one and a space."""
        known = self._encode_context("a")
        rows = self.tokenizer([f"a {word}" for word in words], add_special_tokens=False)
        return [
            np.array(ids[len(known) :] if ids[: len(known)] == known else self.encode(f" {word}"))
            for word, ids in zip(words, rows["input_ids"], strict=True)
        ]

    def _encode_context(self, context: str) -> list[int]:
        if context not in self._known:
            self._known[context] = self.encode(context)
        return self._known[context]
