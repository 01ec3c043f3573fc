"""The documents on which perplexity is measured by context length: the same for every length."""

import dataclasses
import logging
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sft_app.common.counted import counted
from sft_app.common.errors import ConfigError
from sft_app.config.locations import DOCUMENT_SUFFIXES, TABLE_SUFFIXES
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import Packing
from sft_app.data.prepare_data import prepare_data
from sft_app.data.read.open_file import open_bytes
from sft_app.data.read.sources import resolve_sources
from sft_app.evaluation.choose_lengths import Lengths

log = logging.getLogger(__name__)

NEVER_SPLIT = 2**40
"""A context length, in tokens, that every conversation fits."""
KEY = "evaluation.documents"
CHARACTERS_PER_TOKEN = 4
SHOWN = 3
"""Names of files in one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongDocuments:
    """Holds the beginnings of long documents, and the lengths to read them at."""

    lengths: tuple[int, ...] = ()
    """Ascending; empty: nothing is measured."""
    documents: tuple[Tensor, ...] = ()
    """LongTensors [max(lengths)]: the documents' beginnings."""


def long_documents(
    config: AppConfig,
    tokenizer: PreTrainedTokenizerBase,
    lengths: Lengths,
    *,
    from_conversations: bool = True,
    needed: bool = False,
) -> LongDocuments:
    """Choose the first `evaluation.max_documents` that have as many tokens as the largest length.

    One set for all lengths, or perplexity would fall with the length for the documents' sake alone.
    Where no document is that long, the largest length is given up, and the log says so. Without
    `evaluation.documents` they are held-out conversations; without those (`from_conversations`
    false) the sources of Python's library, which every installation has.

    Raises ConfigError, if they are `needed` for nothing else is measured, where all of
    `evaluation.documents` are shorter than every length that was asked for.
    """
    left = list(lengths.values)
    if not left:
        return LongDocuments()
    available = list(_all_documents(config, tokenizer, left[-1], from_conversations))
    given_up = []
    while left:
        chosen = [tokens[: left[-1]] for tokens in available if len(tokens) >= left[-1]]
        if chosen:
            break
        given_up.append(left.pop())
    longest = max(map(len, available), default=0)
    if not left and needed and lengths.asked_for and config.evaluation.documents is not None:
        raise ConfigError(
            f"{KEY}={config.evaluation.documents} is too short: no document has "
            f"{lengths.values[0]:,} tokens, the longest {longest:,}; name longer ones, or set "
            "shorter evaluation.lengths."
        )
    if given_up:
        log.log(
            logging.WARNING if lengths.asked_for else logging.INFO,
            "evaluation      no document has %s tokens, the longest %s: perplexity is not measured "
            "there (evaluation.documents names text files)",
            " or ".join(f"{length:,}" for length in reversed(given_up)),
            f"{longest:,}",
        )
    if not left:
        return LongDocuments()
    few = tuple(chosen[: config.evaluation.max_documents])
    return LongDocuments(lengths=tuple(left), documents=few)


def _all_documents(
    config: AppConfig, tokenizer: PreTrainedTokenizerBase, longest: int, from_conversations: bool
) -> Sequence[Tensor]:
    if config.evaluation.documents is not None:
        return [_tokens(text, tokenizer) for text in read_documents(config.evaluation.documents)]
    if not from_conversations:
        log.info("evaluation      perplexity is measured on the sources of Python's own library")
        return [
            _tokens(t, tokenizer) for t in python_sources(longest, config.evaluation.max_documents)
        ]
    data = dataclasses.replace(config.data, packing=Packing.none)
    prepared = prepare_data(
        data, tokenizer, context_length=NEVER_SPLIT, seed=config.data.split_seed
    )
    if prepared.eval is None:
        return []
    return [prepared.eval[i]["input_ids"] for i in range(len(prepared.eval.lengths))]


def read_documents(setting: Any) -> Iterator[str]:
    """Yield the texts that `evaluation.documents` means; then name in the log what is no UTF-8.

    Raises ConfigError where there are none, and for a file that holds no text or cannot be read.
    """
    sources = resolve_sources(setting, KEY, suffixes=DOCUMENT_SUFFIXES)
    files = [file for source in sources for file in source.files]
    odd = []
    for path in files:
        data = _read(path)
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError:
            odd.append(path.name)
            yield data.decode("utf-8", errors="replace")
    if odd:
        log.warning(
            "evaluation      %s of %s no UTF-8, and what cannot be read is replaced: %s. "
            "Save them as UTF-8, or leave them out of %s",
            len(odd),
            f"{counted(len(files), 'document')} {'is' if len(odd) == 1 else 'are'}",
            ", ".join(odd[:SHOWN]) + (f" and {len(odd) - SHOWN} more" if odd[SHOWN:] else ""),
            KEY,
        )


def _read(path: Path) -> bytes:
    try:
        with open_bytes(path) as file:
            data = file.read()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{KEY}: {path} cannot be read: {error}") from error
    if path.suffix.lower() in TABLE_SUFFIXES or b"\0" in data:
        raise ConfigError(
            f"{KEY}: {path} holds no text in UTF-8: documents are read as they are. Write its "
            "texts to files of their own, or leave it out."
        )
    return data


def python_sources(longest: int, count: int) -> list[str]:
    """Return `count` texts of 5 * `longest` characters: modules of Python's library, joined."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py"))
    wanted = (CHARACTERS_PER_TOKEN + 1) * longest
    texts: list[str] = []
    text = ""
    for module in modules:
        text += module.read_text(encoding="utf-8", errors="replace")
        if len(text) >= wanted:
            texts.append(text[:wanted])
            text = ""
        if len(texts) == count:
            break
    return texts


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    # verbose=False: that a document exceeds the model's length is why it is here.
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
