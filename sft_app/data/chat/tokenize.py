"""Rendered text to token ids, with the labelled places as token positions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from sft_app.data.chat.literal_encoder import LiteralEncoder
from sft_app.data.chat.spans import Exchange, Rendered
from sft_app.data.chat.template import TemplateRefused

_MANY_PLACES = 64


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Name tokens [start, stop) that carry labels."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Hold a whole conversation, of any length; nothing here depends on the context length."""

    input_ids: list[int]
    spans: list[TokenSpan]
    exchanges: list[Exchange] = field(default_factory=list)
    """In tokens, increasing; no border of one is inside a span."""
    is_passage: bool = False


@dataclass(frozen=True, slots=True)
class _Positions:
    """Answers for one text: which token a character belongs to."""

    from_character: Callable[[int], int]
    """The first token with a character at or after this one."""
    shared_before: Callable[[int], int]
    """Characters before this one in the token that has this one (without offsets: 0 or 1)."""


class ChatTokenizer:
    """Tokenise as `apply_chat_template(tokenize=True)` does, and know each token's characters.

    The whole text is tokenised at once, and a token is labelled when at least one of its characters
    stands in a labelled place and none after it: a word piece that takes the space after
    "ASSISTANT:" with it is supervised, a piece of only that space, or of the next header, is not.
    Text that looks like a special token, where a rendering says so, is tokenised as text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the rules of `tokenizer`."""
        self._tokenizer = tokenizer
        rust = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = None if rust is None else _with_exact_offsets(rust)
        self._literal = LiteralEncoder(tokenizer, self._backend)
        self._spaced = {
            number: token.content
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.lstrip or token.rstrip
        }
        """Tokens that take the white space beside them with them (Phi-3's <|end|>)."""
        plain = tokenizer("a")["input_ids"]
        self._bos = plain[:1] if plain and plain[0] == tokenizer.bos_token_id else []
        self._eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def tokenize(self, batch: list[Rendered]) -> list[TokenizedExample | TemplateRefused]:
        """Return one result for each text; an error object where its places cannot be known."""
        if self._backend is None:
            return [self._by_prefixes(rendered) for rendered in batch]
        encodings = self._backend.encode_batch([r.text for r in batch], add_special_tokens=False)
        return [
            self._by_offsets(rendered, encoding)
            for rendered, encoding in zip(batch, encodings, strict=True)
        ]

    def _by_offsets(self, rendered: Rendered, encoding: Any) -> TokenizedExample | TemplateRefused:
        try:
            if rendered.literal:
                encoding = self._literal.encode(rendered, encoding.ids)
        except TemplateRefused as error:
            return error
        many = len(rendered.spans) + len(rendered.exchanges) > _MANY_PLACES
        if many or self._spaced:
            offsets = _bare_offsets(encoding, rendered.text, self._spaced)
            positions = _positions_by_search(offsets)
        else:
            positions = _positions_by_offset(encoding, rendered.text)
        return self._example(rendered, encoding.ids, positions)

    def _by_prefixes(self, rendered: Rendered) -> TokenizedExample | TemplateRefused:
        """For tokenizers written in Python, which do not tell the characters of a token."""
        try:
            ids = self._literal.encode_in_python(rendered, len(rendered.text))
            positions = _positions_by_prefix(
                ids, lambda end: self._literal.encode_in_python(rendered, end)
            )
            return self._example(rendered, ids, positions)
        except TemplateRefused as error:
            return error

    def _example(
        self, rendered: Rendered, ids: list[int], positions: _Positions
    ) -> TokenizedExample:
        spans = []
        for span in rendered.spans:
            start = positions.from_character(span.start)
            stop = positions.from_character(span.stop)
            if start < stop:
                spans.append(TokenSpan(start, stop, span.weight))
        if rendered.is_passage:
            return self._passage(ids, spans)
        return TokenizedExample(ids, spans, _exchanges(rendered, positions))

    def _passage(self, ids: list[int], spans: list[TokenSpan]) -> TokenizedExample:
        """BOS where the tokenizer adds one by itself; EOS behind, as the last thing to learn.

        A text that was rendered beforehand may have them already, read as tokens.
        """
        bos = [] if ids[:1] == self._bos else self._bos
        eos = [] if ids[-1:] == self._eos else self._eos
        whole = [*bos, *ids, *eos]
        shift = len(bos)
        labels = [TokenSpan(s.start + shift, len(whole), s.weight) for s in spans]
        return TokenizedExample(whole, labels, is_passage=True)


def _exchanges(rendered: Rendered, positions: _Positions) -> list[Exchange]:
    """The exchanges in tokens, those joined between which no prefix and rest fit together.

    A question's first token may take the end of the header with it (the space of "USER: "). Then
    the prefix ends, and exchanges begin, that many characters earlier; where no token begins just
    there, a character would be missing or doubled, and the exchange belongs to the one before.
    """
    if not rendered.exchanges:
        return []
    first = rendered.exchanges[0]
    moved = max(positions.shared_before(exchange.start) for exchange in rendered.exchanges)
    header_end = rendered.text[first.start - moved : first.start]

    def begins(exchange: Exchange) -> bool:
        same = rendered.text[exchange.start - moved : exchange.start] == header_end
        return same and positions.shared_before(exchange.start - moved) == 0

    def in_tokens(exchange: Exchange) -> Exchange:
        start = positions.from_character(exchange.start - moved)
        question_stop = max(start, positions.from_character(exchange.question_stop))
        return Exchange(start, question_stop, positions.from_character(exchange.stop))

    if not begins(first):
        return []
    found = [in_tokens(first)]
    for before, exchange in pairwise(rendered.exchanges):
        following = in_tokens(exchange)
        fits = begins(exchange) and positions.shared_before(before.stop) == 0
        if fits and found[-1].stop <= following.start:
            found.append(following)
        else:
            found[-1] = replace(found[-1], stop=following.stop)
    return found


def _with_exact_offsets(rust: Tokenizer) -> Tokenizer:
    """A copy without padding, truncation and post-processing.

    Where no special tokens are to be added, a post-processor changes no id, but ByteLevel's may
    leave whitespace out of the offsets.
    """
    copy = Tokenizer.from_str(rust.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.post_processor = None
    copy.encode_special_tokens = rust.encode_special_tokens
    return copy


def _positions_by_offset(encoding: Any, text: str) -> _Positions:
    size, length = len(encoding), len(text)

    def from_character(character: int) -> int:
        for at in range(character, length):
            token = encoding.char_to_token(at)
            if token is not None:
                return int(token)
        return size

    def shared_before(character: int) -> int:
        token = from_character(character)
        return 0 if token >= size else max(0, character - int(encoding.token_to_chars(token)[0]))

    return _Positions(from_character, shared_before)


def _bare_offsets(encoding: Any, text: str, spaced: dict[int, str]) -> list[tuple[int, int]]:
    """The tokens' characters; of those that take white space with them, their own ones alone.

    An end token would else reach beyond its answer, and a header into it.
    """
    offsets: list[tuple[int, int]] = list(encoding.offsets)
    for place, number in enumerate(encoding.ids) if spaced else ():
        content = spaced.get(number)
        start = text.find(content, *offsets[place]) if content is not None else -1
        if content is not None and start >= 0:
            offsets[place] = (start, start + len(content))
    return offsets


def _positions_by_search(offsets: list[tuple[int, int]]) -> _Positions:
    """The same for many places: each character's token is looked for in all offsets at once."""
    starts, stops = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    # Offsets never go back, but for bytes of one character.
    stops = np.maximum.accumulate(stops)
    size = len(starts)

    def from_character(character: int) -> int:
        return int(np.searchsorted(stops, character, side="right"))

    def shared_before(character: int) -> int:
        token = from_character(character)
        return 0 if token >= size else max(0, character - int(starts[token]))

    return _Positions(from_character, shared_before)


def _positions_by_prefix(ids: list[int], encode_until: Callable[[int], list[int]]) -> _Positions:
    """Tokens that the text up to a character and the whole text have in common.

    At most one more token may differ, the one with characters on both sides; otherwise the
    tokenizer looks further ahead than this can prove, and TemplateRefused is raised.
    """

    def common(character: int) -> tuple[int, bool]:
        prefix = encode_until(character)
        same = next(
            (n for n, pair in enumerate(zip(prefix, ids, strict=False)) if pair[0] != pair[1]),
            min(len(prefix), len(ids)),
        )
        if same < len(prefix) - 1:
            raise TemplateRefused(
                f"the tokenizer does not keep the tokens before character {character} when text "
                "follows, so the answer's tokens cannot be known"
            )
        return same, same < len(prefix)

    return _Positions(lambda c: common(c)[0], lambda c: int(common(c)[1]))
