"""The whole chain, from `data.*` settings to batches."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sft_app.config.data import DataConfig, DataFormat, OnBadRecord, Packing, TrainOn
from sft_app.data.cache import (
    cache_directory,
    cache_key,
    cached,
    code_digest,
    file_digest,
    tokenizer_digest,
)
from sft_app.data.collate import CollateDocuments, CollateExamples
from sft_app.data.conversation import Conversation, Passage, content_key
from sft_app.data.dataset import Document, ExampleDataset, PackedDataset
from sft_app.data.errors import DataError
from sft_app.data.fit import fit
from sft_app.data.formats import NotThisFormat, detect, normalise
from sft_app.data.odd import repair
from sft_app.data.pack import best_fit_decreasing
from sft_app.data.read import BadRecord, read_file
from sft_app.data.render import Renderer, TemplateRefused
from sft_app.data.select import choose, copies, lowest, rank
from sft_app.data.sources import Source, resolve_sources
from sft_app.data.statistics import (
    DataStatistics,
    FitStatistics,
    PackingStatistics,
    ReadStatistics,
    add_counts,
    length_statistics,
)
from sft_app.data.store import TokenStore, to_batch, write_store
from sft_app.data.tokenize import ChatTokenizer

log = logging.getLogger(__name__)

_BATCH = 256
"""Conversations that are tokenised, and stored, together."""


@dataclass
class PreparedData:
    train: PackedDataset | ExampleDataset
    """Packed with packing=best_fit."""
    eval: ExampleDataset | None
    """One document per item, fitted to the context, never packed."""
    collate: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]
    """For items of `train`."""
    statistics: DataStatistics


def prepare_data(
    data: DataConfig, tokenizer: PreTrainedTokenizerBase, *, context_length: int, seed: int
) -> PreparedData:
    """Read, tokenise (or find in the cache), fit and pack; the same result in every process.

    Args:
        context_length: tokens; the capacity of a packed row, the limit of an example.
        seed: chooses the held-out conversations and those that `data.max_examples` keeps.

    Raises ConfigError for settings that cannot work, DataError for records that cannot be read
    (data.on_bad_record=error) or when nothing is left to train on.
    """
    held_out = data.eval_examples if data.eval is None else 0
    train_store, train_read, weights = _tokenised(
        data, data.train, "data.train", tokenizer, seed, held_out, data.max_examples
    )
    choice = choose(
        train_store.conversation,
        train_store.key,
        weights[train_store.source],
        seed=seed,
        eval_examples=held_out,
        max_examples=data.max_examples,
    )
    train, train_fit = _fitted(train_store, choice.train, data, context_length)
    if not train.lengths:
        raise DataError(
            f"data.train={data.train} leaves nothing to train on at context_length={context_length}"
            f" ({train_read.conversations} conversations read): check data.overlong and the counts."
        )
    if data.eval is not None:
        eval_store, eval_read, _ = _tokenised(
            data, data.eval, "data.eval", tokenizer, seed, 0, None
        )
        eval_choice = np.arange(len(eval_store))
    else:
        eval_store, eval_read, eval_choice = train_store, None, choice.eval
    held, held_fit = _fitted(eval_store, eval_choice, data, context_length)

    pad = _pad_token_id(tokenizer)
    packed: PackedDataset | ExampleDataset = train
    padding = sum(context_length - length for length in train.lengths)
    if data.packing is Packing.best_fit:
        rows = best_fit_decreasing(train.lengths, context_length)
        # Longest first is the order of the algorithm; training wants no order.
        order = np.random.default_rng(seed).permutation(len(rows))
        packed = PackedDataset(train, [rows[i] for i in order])
        padding = sum(context_length - length for length in packed.lengths)
    capacity = len(packed) * context_length
    statistics = DataStatistics(
        context_length=context_length,
        train_read=train_read,
        eval_read=eval_read,
        lengths=length_statistics(train_store.lengths[np.unique(choice.train)]),
        train=train_fit,
        eval=held_fit if len(held) else None,
        packing=PackingStatistics(
            rows=len(packed),
            padding_tokens=padding,
            efficiency=1 - padding / capacity,
        ),
    )
    collate: CollateDocuments | CollateExamples = CollateExamples(pad)
    if data.packing is Packing.best_fit:
        collate = CollateDocuments(pad, context_length)
    return PreparedData(packed, held if len(held) else None, collate, statistics)


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any id does where padding is neither attended to nor learned; the tokenizer's own if set."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def _fitted(
    store: TokenStore, rows: np.ndarray, data: DataConfig, context_length: int
) -> tuple[ExampleDataset, FitStatistics]:
    documents: list[Document] = []
    statistics = FitStatistics(examples=len(rows), tokens=int(store.lengths[rows].sum()))
    weighted = False
    for row in rows.tolist():
        length, spans = int(store.lengths[row]), store.spans(row)
        fitted = fit(
            length,
            spans,
            store.exchanges(row),
            int(store.system[row]),
            bool(store.is_passage[row]),
            context_length=context_length,
            overlong=data.overlong,
        )
        documents += [Document(row, piece) for piece in fitted.pieces]
        weighted = weighted or any(span.weight != 1 for span in spans)
        statistics.overlong += length > context_length
        statistics.dropped += not fitted.pieces
        statistics.truncated += bool(fitted.pieces) and bool(fitted.lost)
        statistics.split += len(fitted.pieces) > 1
        add_counts(statistics.lost_tokens, fitted.lost)
        for piece in fitted.pieces:
            statistics.pieces += 1
            statistics.used_tokens += piece.length
            statistics.supervised_tokens += sum(
                max(0, min(s.stop, piece.stop) - max(s.start, piece.start)) for s in spans
            )
    return ExampleDataset(store, documents, weighted), statistics


def _tokenised(
    data: DataConfig,
    value: object,
    key: str,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    held_out: int,
    max_examples: int | None,
) -> tuple[TokenStore, ReadStatistics, np.ndarray]:
    """The store for one setting, from the cache or made now; how it was read; source weights."""
    sources = resolve_sources(value, key)
    weights = np.array([source.weight for source in sources])
    directory = cache_directory(data.cache_dir)
    digests = [[file_digest(f, directory / "files") for f in s.files] for s in sources]
    parts: dict[str, object] = {
        "files": digests,
        "format": data.format.value,
        "on_bad_record": data.on_bad_record.value,
        "train_on": data.train_on.value,
        "tokenizer": tokenizer_digest(tokenizer),
        "code": code_digest(),
    }
    wanted = None if max_examples is None else held_out + max_examples
    if wanted is not None:
        # Only the conversations that this seed chooses are worth tokenising.
        parts |= {"seed": seed, "wanted": wanted, "weights": weights.tolist()}

    def build(folder: Path) -> None:
        read = ReadStatistics()
        items = _conversations(sources, data, read)
        if wanted is not None:
            ranked = (
                (rank(item.key, seed), item)
                for item in items
                if copies(item.key, seed, sources[item.source].weight)
            )
            items = lowest(ranked, wanted)
        write_store(folder / "tokens.arrow", _batches(items, tokenizer, data, read))
        (folder / "read.json").write_text(json.dumps(asdict(read)))

    folder = cached(directory, cache_key(parts), build)
    read = _load_read(folder / "read.json")
    return TokenStore(folder / "tokens.arrow"), read, weights


def _load_read(path: Path) -> ReadStatistics:
    return ReadStatistics(**json.loads(path.read_text()))


@dataclass(slots=True)
class _Item:
    content: Conversation | Passage
    where: str
    number: int
    key: int
    source: int


def _conversations(
    sources: list[Source], data: DataConfig, read: ReadStatistics
) -> Iterator[_Item]:
    """Every usable conversation of the sources; what is not usable is counted in `read`."""
    for source_number, source in enumerate(sources):
        for file in source.files:
            for record in read_file(file):
                read.records += 1
                if isinstance(record, BadRecord):
                    _bad(record.reason, record.message, data, read)
                    continue
                format = data.format
                if format is DataFormat.auto:
                    found = detect(record.value)
                    if found is None:
                        _bad("unknown_format", f"{record.where}: no known format", data, read)
                        continue
                    format = found
                try:
                    content = normalise(record.value, format)
                except NotThisFormat as error:
                    _bad("not_this_format", f"{record.where}: {error}", data, read)
                    continue
                add_counts(read.formats, {format.value: 1})
                if isinstance(content, Conversation):
                    repaired, applied = repair(content)
                    add_counts(read.odd, applied)
                    if repaired is None:
                        continue
                    content = repaired
                    if data.train_on is TrainOn.last_turn:
                        content = _last_turn_only(content)
                read.conversations += 1
                yield _Item(
                    content, record.where, read.conversations, content_key(content), source_number
                )


def _last_turn_only(conversation: Conversation) -> Conversation:
    messages = [replace(m, weight=0.0) for m in conversation.messages[:-1]]
    return replace(conversation, messages=[*messages, conversation.messages[-1]])


def _bad(reason: str, message: str, data: DataConfig, read: ReadStatistics) -> None:
    if data.on_bad_record is OnBadRecord.error:
        raise DataError(f"{message}; data.on_bad_record=skip leaves it out and counts it")
    add_counts(read.skipped, {reason: 1})
    if len(read.examples_of_skipped) < 5:
        read.examples_of_skipped.append(message)


def _batches(
    items: Iterator[_Item],
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    read: ReadStatistics,
) -> Iterator[pa.RecordBatch]:
    renderer, chat_tokenizer = Renderer(tokenizer), ChatTokenizer(tokenizer)
    batch: list[_Item] = []

    def tokenise() -> pa.RecordBatch:
        rendered, owners = [], []
        for item in batch:
            try:
                pieces = renderer.render(item.content)
            except TemplateRefused as error:
                _bad("template_refused", f"{item.where}: {error}", data, read)
                continue
            rendered += pieces
            owners += [item] * len(pieces)
        return to_batch(
            chat_tokenizer.tokenize(rendered),
            [o.number for o in owners],
            [o.key for o in owners],
            [o.source for o in owners],
        )

    for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            yield tokenise()
            batch = []
    if batch:
        yield tokenise()
