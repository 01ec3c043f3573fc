"""Rendered text to token ids, with the labelled places as token positions."""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from sft_app.data.render import Rendered


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens [start, stop) that carry labels."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """A whole conversation, of any length; nothing here depends on the context length."""

    input_ids: list[int]
    spans: list[TokenSpan]
    exchanges: list[int] = field(default_factory=list)
    """Where the example may be split (token positions, increasing, never inside a span)."""
    system: int = 0
    """Tokens that every later piece of a split begins with."""
    is_passage: bool = False


class ChatTokenizer:
    """Tokenises as `apply_chat_template(tokenize=True)` does, and knows each token's characters.

    Exact because the whole text is tokenised at once, and a token is labelled when at least one of
    its characters stands in a labelled place: a word piece that takes the space after
    "ASSISTANT:" with it is learned, a piece of only that space is not.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend = _backend_with_exact_offsets(tokenizer)
        self._bos = _added_bos(tokenizer)
        self._eos = tokenizer.eos_token_id

    def tokenize(self, batch: list[Rendered]) -> list[TokenizedExample]:
        encodings = self._backend.encode_batch([r.text for r in batch], add_special_tokens=False)
        return [self._example(*pair) for pair in zip(batch, encodings, strict=True)]

    def _example(self, rendered: Rendered, encoding) -> TokenizedExample:  # type: ignore[no-untyped-def]
        ids: list[int] = encoding.ids
        length = len(rendered.text)

        def first_token_from(character: int) -> int:
            """The first token with a character at or after this one."""
            for at in range(character, length):
                token = encoding.char_to_token(at)
                if token is not None:
                    return int(token)
            return len(ids)

        def first_token_after(character: int) -> int:
            """The first token without any character before this one."""
            token = first_token_from(character)
            while token < len(ids) and encoding.token_to_chars(token)[0] < character:
                token += 1
            return token

        spans = []
        for span in rendered.spans:
            start, stop = first_token_from(span.start), first_token_after(span.stop)
            if start < stop:
                spans.append(TokenSpan(start, stop, span.weight))
        exchanges = [first_token_after(at) for at in rendered.exchanges]
        # A token with characters of both the system prompt and the question stays with the latter.
        system = first_token_from(rendered.system) if rendered.system else 0
        if rendered.is_passage:
            return self._passage(ids, spans)
        return TokenizedExample(ids, spans, exchanges, system)

    def _passage(self, ids: list[int], spans: list[TokenSpan]) -> TokenizedExample:
        """BOS where the tokenizer adds one by itself; EOS behind, as the last thing to learn."""
        shift = len(self._bos)
        weight = spans[-1].weight if spans else 1.0
        start = spans[-1].start + shift if spans else shift + len(ids)
        ids = self._bos + ids
        if self._eos is not None:
            ids = [*ids, self._eos]
        labelled = [TokenSpan(start, len(ids), weight)] if start < len(ids) else []
        return TokenizedExample(ids, labelled, is_passage=True)


def _backend_with_exact_offsets(tokenizer: PreTrainedTokenizerBase):  # type: ignore[no-untyped-def]
    """A copy of the Rust tokenizer without padding, truncation and post-processing.

    Without special tokens to add, a post-processor changes no id, but ByteLevel's may trim
    whitespace from the offsets.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.post_processor = None
    backend.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens
    return backend


def _added_bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[bos] when the tokenizer puts it before plain text by itself, else []."""
    ids = tokenizer("a")["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []
