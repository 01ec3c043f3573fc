"""The writing half of the chain: conversations are rendered and tokenised by several processes."""

import gc
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from sft_app.common.errors import DataError
from sft_app.common.resource_limits import memory_limit
from sft_app.config.schema.data import SpecialTokensInText
from sft_app.data.chat.render import NotRendered, Renderer
from sft_app.data.chat.spans import Rendered, with_valid_unicode
from sft_app.data.chat.template import MAX_GROWTH, TemplateRefused
from sft_app.data.chat.tokenize import ChatTokenizer, TokenizedExample
from sft_app.data.read.conversation_reader import ConversationReader, Item
from sft_app.data.statistics import add_counts
from sft_app.data.store.token_store import to_batch


@dataclass(frozen=True, slots=True)
class Rendering:
    """Hold the settings that decide how a conversation becomes text and tokens."""

    special_tokens_in_text: SpecialTokensInText = SpecialTokensInText.text
    variables: Mapping[str, Any] = field(default_factory=dict)
    """`tokenizer.chat_template_kwargs`: what the chat template may be told."""


_BATCH = 128
"""Conversations that travel to a process, and are stored, together."""


@dataclass(frozen=True, slots=True)
class _Result:
    rows: pa.RecordBatch
    refused: list[tuple[str, str]]
    """Reasons, and sentences, about conversations that the chat template refuses."""
    not_rendered: dict[str, int]
    """Conversations of which the template leaves something out, by what that is."""
    repaired: dict[str, int]
    """history_rewritten: conversations that became an example for each answer.
    special_token_in_text: messages that spell out a special token.
    broken_unicode_replaced: half a surrogate pair, which no tokenizer takes."""


class _Tokenise:
    """Items to rows; one object in each process."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rendering: Rendering) -> None:
        self._renderer = Renderer(tokenizer, rendering.special_tokens_in_text, rendering.variables)
        self._tokenizer = ChatTokenizer(tokenizer)

    def __call__(self, items: list[Item]) -> _Result:
        texts: list[Rendered] = []
        owners: list[Item] = []
        refused: list[tuple[str, str]] = []
        repaired: Counter[str] = Counter()
        not_rendered: Counter[str] = Counter()
        with memory_limit(MAX_GROWTH):
            for item in items:
                try:
                    rendered = self._renderer.render(item.content)
                except TemplateRefused as error:
                    refused.append((error.reason, f"{item.where}: {error}"))
                    if isinstance(error, NotRendered):
                        not_rendered.update(error.kinds.keys())
                    continue
                repaired["history_rewritten"] += len(rendered) > 1
                repaired["special_token_in_text"] += self._renderer.special_text.is_in(item.content)
                repaired.update(f"{kind}_not_rendered" for kind in self._renderer.noted)
                whole = [with_valid_unicode(r) for r in rendered]
                repaired["broken_unicode_replaced"] += whole != rendered
                texts += whole
                owners += [item] * len(rendered)
        found = self._tokenizer.tokenize(texts)
        # A conversation of several examples is used whole, or not at all.
        bad = {
            owner.origin.conversation: (example.reason, f"{owner.where}: {example}")
            for example, owner in zip(found, owners, strict=True)
            if isinstance(example, TemplateRefused)
        }
        refused += bad.values()
        examples, origins = [], []
        for example, owner in zip(found, owners, strict=True):
            if isinstance(example, TokenizedExample) and owner.origin.conversation not in bad:
                examples.append(example)
                origins.append(owner.origin)
        return _Result(to_batch(examples, origins), refused, dict(not_rendered), dict(+repaired))


def tokenised_batches(
    items: Iterator[Item],
    tokenizer: PreTrainedTokenizerBase,
    reader: ConversationReader,
    num_proc: int | None,
    rendering: Rendering,
) -> Iterator[pa.RecordBatch]:
    """Yield rows for the store, in the order of `items` whatever `num_proc` is.

    At most a few batches are in memory at a time. What the template refuses is a bad record of
    `reader`; processes that die (memory, usually) raise DataError.
    """
    with _one_thread_each():
        for result in _results(items, _Tokenise(tokenizer, rendering), num_proc or _cores()):
            add_counts(reader.statistics.not_rendered, result.not_rendered)
            for reason, sentence in result.refused:
                reader.refused(reason, sentence)
            add_counts(reader.statistics.repaired, result.repaired)
            yield result.rows


def _results(items: Iterator[Item], tokenise: _Tokenise, num_proc: int) -> Iterator[_Result]:
    batches = iter(lambda: list(islice(items, _BATCH)), [])
    head = list(islice(batches, 2))
    if num_proc == 1 or len(head) < 2:
        yield from map(tokenise, chain(head, batches))
        return
    to_batch([], [])  # imports what Arrow needs once, rather than in every process
    # Forked processes inherit the tokenizer, and need not import torch and transformers again.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_proc, context, _start_worker, (tokenise,)) as pool:
        try:
            yield from _in_order(pool, chain(head, batches), waiting=2 * num_proc)
        except BrokenProcessPool as error:
            raise DataError(
                "a tokenising process was killed, most likely because memory ran out: "
                f"use fewer than data.num_proc={num_proc}"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_order(
    pool: ProcessPoolExecutor, batches: Iterable[list[Item]], waiting: int
) -> Iterator[_Result]:
    """Results in the order of the batches; at most `waiting` batches are under way."""
    futures: deque[Future[_Result]] = deque()
    for batch in batches:
        futures.append(pool.submit(_work, batch))
        if len(futures) > waiting:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


_tokenise_here: _Tokenise
"""In a worker process: what it was started with."""


def _start_worker(tokenise: _Tokenise) -> None:
    global _tokenise_here
    _tokenise_here = tokenise
    # What was inherited is never garbage here: looking through it would copy its memory.
    gc.freeze()


def _work(items: list[Item]) -> _Result:
    return _tokenise_here(items)


def _cores() -> int:
    """Cores that this process may use, where the system can say; not all of a shared node's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The Rust tokenizer would start a thread for each core in each process, and threads that were
    used once make every later fork (data loader workers) print a warning."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
