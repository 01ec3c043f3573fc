"""The whole chain, from `data.*` settings to batches."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sft_app.common.counted import counted
from sft_app.common.errors import DataError
from sft_app.common.file_digest import file_digest
from sft_app.config.locations import data_suffix
from sft_app.config.schema.data import DataConfig, Packing
from sft_app.data.batches.collators import CollateDocuments, CollateExamples
from sft_app.data.batches.datasets import ExampleDataset, PackedDataset
from sft_app.data.batches.fit_rows import fit_rows
from sft_app.data.batches.pack import best_fit_decreasing
from sft_app.data.batches.train_eval_split import choose, copies, lowest, rank
from sft_app.data.read.conversation_reader import ConversationReader
from sft_app.data.read.read_hub import hub_digest
from sft_app.data.read.sources import Source, resolve_sources
from sft_app.data.statistics import (
    DataStatistics,
    FitStatistics,
    PackingStatistics,
    ReadStatistics,
    add_counts,
    length_statistics,
)
from sft_app.data.store.token_cache import (
    CODE_DIGEST,
    cache_directory,
    cache_key,
    cached,
    tokenizer_digest,
)
from sft_app.data.store.token_store import TokenStore, write_store
from sft_app.data.store.tokenize_pool import Rendering, tokenised_batches

log = logging.getLogger(__name__)

CONVERSATIONS_PER_HELD_OUT = 10
"""At most one conversation in this many is held out."""


@dataclass
class PreparedData:
    """Hold the training set, the held-out set, and what is known about both."""

    train: PackedDataset | ExampleDataset
    """Packed unless packing=none."""
    eval: ExampleDataset | None
    """One document per item, fitted to the context, never packed."""
    collate: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]
    """For items of `train`."""
    statistics: DataStatistics


def prepare_data(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_length: int,
    seed: int,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    eval_length: int | None = None,
    with_shares: bool = False,
) -> PreparedData:
    """Read, tokenise (or find in the cache), fit and pack; the same result in every process.

    Args:
        context_length: tokens; the capacity of a packed row, the limit of an example.
        seed: chooses the held-out conversations and those that `data.max_examples` keeps.
        chat_template_kwargs: what the chat template is told beside the conversation.
        eval_length: tokens to which held-out conversations are fitted; None: `context_length`.
        with_shares: each supervised token tells what part of its conversation it is.

    Raises ConfigError for settings that cannot work, DataError for records that cannot be read
    (data.on_bad_record=error) or when nothing is left to train on.
    """
    rendering = Rendering(data.special_tokens_in_text, chat_template_kwargs or {})
    held_out = data.eval_examples if data.eval is None else 0
    wanted = None if data.max_examples is None else held_out + data.max_examples
    train_store, train_read, weights = _tokenised(
        data, data.train, "data.train", tokenizer, rendering, seed, wanted
    )
    # A small file keeps most of its conversations for training.
    held_out = min(held_out, train_read.conversations // CONVERSATIONS_PER_HELD_OUT)
    choice = choose(
        train_store.conversation,
        train_store.key,
        weights[train_store.source],
        seed=seed,
        eval_examples=held_out,
        max_examples=data.max_examples,
    )
    not_chosen = (
        train_read.conversations
        - choice.copies_of_held_out
        - len(np.unique(train_store.conversation[np.concatenate([choice.train, choice.eval])]))
    )
    train, train_fit = _fitted(train_store, choice.train, data, context_length, with_shares)
    if not train.lengths:
        left_out = {
            "held_out": len(np.unique(train_store.conversation[choice.eval])),
            "copies_of_held_out": choice.copies_of_held_out,
            "not_chosen": not_chosen,
        }
        raise DataError(_nothing_left(data, context_length, train_read, train_fit, left_out))
    eval_in_train = 0
    if data.eval is not None:
        eval_store, eval_read, weights = _tokenised(
            data, data.eval, "data.eval", tokenizer, rendering, seed, None
        )
        eval_choice = choose(
            eval_store.conversation,
            eval_store.key,
            weights[eval_store.source],
            seed=seed,
            eval_examples=0,
            max_examples=None,
        ).train
        in_both = np.isin(eval_store.key[eval_choice], train_store.key[choice.train])
        eval_in_train = len(np.unique(eval_store.conversation[eval_choice[in_both]]))
    else:
        eval_store, eval_read, eval_choice = train_store, None, choice.eval
    held, held_fit = _fitted(eval_store, eval_choice, data, eval_length or context_length)

    pad = _pad_token_id(tokenizer)
    packed: PackedDataset | ExampleDataset = train
    padding = sum(context_length - length for length in train.lengths)
    if data.packing is not Packing.none:
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
            packed=data.packing is not Packing.none,
            rows=len(packed),
            padding_tokens=padding,
            efficiency=1 - padding / capacity,
        ),
        not_chosen=not_chosen,
        copies_of_held_out=choice.copies_of_held_out,
        eval_in_train=eval_in_train,
        eval_length=eval_length,
    )
    collate: CollateDocuments | CollateExamples = CollateExamples(pad)
    if data.packing is not Packing.none:
        collate = CollateDocuments(pad, context_length)
    return PreparedData(packed, held if len(held) else None, collate, statistics)


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokenizer's own, or any id: padding is neither attended to nor supervised."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def _nothing_left(
    data: DataConfig,
    context_length: int,
    read: ReadStatistics,
    fit: FitStatistics,
    left_out: Mapping[str, int],
) -> str:
    """A sentence with every reason that is known, and how often it was one."""
    if not read.records:
        return (
            f"data.train={data.train} has no record: a file that is read is empty, or holds an "
            "empty list. Name one with conversations."
        )
    reasons = {**read.skipped, **read.repaired, **fit.lost_tokens, **left_out}
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(reasons.items()) if count)
    examples = f"; the first: {read.examples_of_skipped[0]}" if read.examples_of_skipped else ""
    none_was_read = read.records == sum(read.skipped.values())  # the example says why
    check = "" if none_was_read and examples else (
        ". Check data.format, data.columns, data.overlong and the counts."
    )  # fmt: skip
    return (
        f"data.train={data.train} leaves nothing to train on at context_length={context_length}: "
        f"{counted(read.records, 'record')}, {counted(read.conversations, 'conversation')} read"
        f" ({counts or 'no record was refused'}){examples}{check}"
    )


def _fitted(
    store: TokenStore,
    rows: np.ndarray,
    data: DataConfig,
    context_length: int,
    with_shares: bool = False,
) -> tuple[ExampleDataset, FitStatistics]:
    fitted = fit_rows(
        store,
        context_length=context_length,
        overlong=data.overlong,
        question=data.overlong_question,
    )
    statistics = fitted.statistics(rows, context_length)
    documents = fitted.documents_of(rows)
    examples = ExampleDataset(fitted, documents, statistics.weighted, with_shares=with_shares)
    return examples, statistics


def _tokenised(
    data: DataConfig,
    value: object,
    key: str,
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering,
    seed: int,
    wanted: int | None,
) -> tuple[TokenStore, ReadStatistics, np.ndarray]:
    """The store for one setting, from the cache or made now; how it was read; source weights.

    With `wanted`, only that many conversations, the first by this seed, are tokenised.
    """
    sources = resolve_sources(value, key)
    weights = np.array([source.weight for source in sources])
    directory = cache_directory(data.cache_dir)
    parts: dict[str, object] = {
        "sources": [_digests(source, directory) for source in sources],
        "format": data.format.value,
        "columns": data.columns,
        "roles": data.roles,
        "special_tokens_in_text": data.special_tokens_in_text.value,
        "chat_template_kwargs": rendering.variables,
        "on_bad_record": data.on_bad_record.value,
        "train_on": data.train_on.value,
        "tokenizer": tokenizer_digest(tokenizer),
        "code": CODE_DIGEST,
    }
    if wanted is not None:
        parts |= {"seed": seed, "wanted": wanted, "weights": weights.tolist()}

    def build(folder: Path) -> None:
        reader = ConversationReader(data)
        items = reader.read(sources)
        if wanted is not None:
            used = (i for i in items if copies(i.origin.key, seed, weights[i.origin.source]))
            items = lowest(((rank(i.origin.key, seed), i) for i in used), wanted)
        batches = tokenised_batches(items, tokenizer, reader, data.num_proc, rendering)
        write_store(folder / "tokens.arrow", batches)
        (folder / "read.json").write_text(json.dumps(asdict(reader.statistics)))

    folder = cached(directory, cache_key(parts), build)
    read = ReadStatistics(**json.loads((folder / "read.json").read_text()))
    for source in sources:  # what lies beside the data now, and not when they were read
        add_counts(read.ignored_files, source.ignored)
    if read.columns_not_found:
        log.warning(
            "no record of %s has what data.columns names: %s",
            key,
            ", ".join(read.columns_not_found),
        )
    names = [[str(file) for file in source.files] or [source.name] for source in sources]
    return TokenStore(folder / "tokens.arrow", names), read, weights


def _digests(source: Source, directory: Path) -> list[str]:
    """What changes with a source's content, and with the names that say how it is read."""
    if not source.files:
        return [hub_digest(source.name)]
    return [f"{file_digest(file, directory / 'files')}{data_suffix(file)}" for file in source.files]
