"""The documents on which perplexity is measured by context length: the same for every length."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sft_app.config.locations import DOCUMENT_SUFFIXES
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import Packing
from sft_app.data.prepare_data import prepare_data
from sft_app.data.read.sources import resolve_sources

log = logging.getLogger(__name__)

NEVER_SPLIT = 2**40
"""A context length, in tokens, that every conversation fits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongDocuments:
    """Holds the beginnings of long documents, and the lengths to read them at."""

    lengths: tuple[int, ...]
    """Ascending; empty: nothing is measured."""
    documents: tuple[Tensor, ...]
    """LongTensors [max(lengths)]: the documents' beginnings."""


def long_documents(config: AppConfig, tokenizer: PreTrainedTokenizerBase) -> LongDocuments:
    """Choose the first `evaluation.max_documents` that have as many tokens as the largest length.

    One set for all lengths, or perplexity would fall with the length for the documents' sake alone.
    Where no document is that long, the largest length is given up, and the log says so.
    """
    lengths = sorted(set(config.evaluation.lengths or config.sweep.lengths))
    if not lengths or not (config.evaluation.before or config.evaluation.after):
        return LongDocuments(lengths=(), documents=())
    available = list(_all_documents(config, tokenizer))
    while lengths:
        chosen = [tokens[: lengths[-1]] for tokens in available if len(tokens) >= lengths[-1]]
        if chosen:
            few = tuple(chosen[: config.evaluation.max_documents])
            return LongDocuments(lengths=tuple(lengths), documents=few)
        log.warning(
            "evaluation      no held-out document has %s tokens, the longest %s: perplexity is not "
            "measured at that length (evaluation.documents names text files)",
            f"{lengths.pop():,}",
            f"{max(map(len, available), default=0):,}",
        )
    return LongDocuments(lengths=(), documents=())


def _all_documents(config: AppConfig, tokenizer: PreTrainedTokenizerBase) -> Sequence[Tensor]:
    if config.evaluation.documents is not None:
        return [_tokens(path, tokenizer) for path in text_files(config.evaluation.documents)]
    data = dataclasses.replace(config.data, packing=Packing.none)
    prepared = prepare_data(
        data, tokenizer, context_length=NEVER_SPLIT, seed=config.data.split_seed
    )
    if prepared.eval is None:
        return []
    return [prepared.eval[i]["input_ids"] for i in range(len(prepared.eval.lengths))]


def text_files(setting: Any) -> list[Path]:
    """List the files that `evaluation.documents` means; raises ConfigError when there are none."""
    sources = resolve_sources(setting, "evaluation.documents", suffixes=DOCUMENT_SUFFIXES)
    return [file for source in sources for file in source.files]


def _tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    # verbose=False: that a document exceeds the model's length is why it is here.
    text = path.read_text(encoding="utf-8")
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"])
