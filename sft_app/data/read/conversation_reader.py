"""The reading half of the chain: sources to usable conversations, and a count of the rest."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sft_app.common.errors import DataError
from sft_app.config.schema.data import DataConfig, DataFormat, OnBadRecord, TrainOn
from sft_app.data.chat.conversation import Conversation, Passage, content_key
from sft_app.data.parse.field_names import FieldNames, NotThisFormat
from sft_app.data.parse.formats import detect, normalise
from sft_app.data.parse.repair import repair
from sft_app.data.parse.suggest_columns import suggest
from sft_app.data.read.read_files import read_file
from sft_app.data.read.read_hub import read_hub
from sft_app.data.read.record import BadRecord, Origin, Record, place_in_file
from sft_app.data.read.sources import Source
from sft_app.data.statistics import ReadStatistics, add_counts

log = logging.getLogger(__name__)

_MESSAGES_KEPT = 5
_MEDIA_PLACE = re.compile(r"<(?:image|video|audio)>")
"""What some datasets write where an image belongs; said, because the model will read it as text."""

_FOR_TEMPLATES = ("documents", "chat_template_kwargs")
"""What a record may tell the chat template of its own, and all templates here are told alike."""


@dataclass(slots=True)
class Item:
    """Hold one usable conversation or passage on its way to the tokenizer."""

    content: Conversation | Passage
    where: str
    """For people: file and record, line or row."""
    origin: Origin


class ConversationReader:
    """Read sources by the settings `data.*`, counting in `statistics` as it goes."""

    def __init__(self, data: DataConfig) -> None:
        """Start with nothing read."""
        self._data = data
        self._names = FieldNames(data.columns or {}, data.roles or {})
        self._number = 0
        self.statistics = ReadStatistics()

    def read(self, sources: list[Source]) -> Iterator[Item]:
        """Yield every usable conversation, in the order of the sources and of their files."""
        for number, source in enumerate(sources):
            if source.files:
                for place, file in enumerate(source.files):
                    before = self.statistics.records
                    yield from self._read_records(read_file(file), str(file), number, place)
                    if self.statistics.records == before:
                        log.warning("%s has no record", file)
                        add_counts(self.statistics.ignored_files, {"without_records": 1})
            else:
                yield from self._read_records(read_hub(source.name), source.name, number, 0)
        if self.statistics.records:
            self.statistics.columns_not_found = self._names.not_found()
            told = set(_FOR_TEMPLATES)
            self.statistics.keys_not_read = {
                name: count for name, count in self._names.not_read.items() if name not in told
            }

    def bad_record(self, reason: str, message: str) -> None:
        """Raise DataError, or count the record by `reason`, as `data.on_bad_record` says."""
        if self._data.on_bad_record is OnBadRecord.error:
            raise DataError(f"{message}; data.on_bad_record=skip leaves it out and counts it")
        add_counts(self.statistics.skipped, {reason: 1})
        if len(self.statistics.examples_of_skipped) < _MESSAGES_KEPT:
            self.statistics.examples_of_skipped.append(message)

    def refused(self, reason: str, message: str) -> None:
        """Take back a conversation that was read, and that the chat template does not render."""
        self.bad_record(reason, message)
        self.statistics.conversations -= 1

    def _read_records(
        self, records: Iterator[Record | BadRecord], name: str, source: int, file: int
    ) -> Iterator[Item]:
        format = self._data.format
        for record in records:
            self.statistics.records += 1
            if isinstance(record, BadRecord):
                self.bad_record(record.reason, record.message)
                continue
            try:
                if format is DataFormat.auto:
                    found = detect(record.value, self._names)
                    if found is None:
                        add_counts(self.statistics.repaired, {"empty": 1})
                        continue
                    format = found
                    log.info("%s: format %s, seen from its records", name, format.value)
                content = normalise(record.value, format, self._names)
            except NotThisFormat as error:
                self.bad_record(error.reason, f"{record.where}: {error}{self._hint(record.value)}")
                continue
            add_counts(self.statistics.formats, {format.value: 1})
            usable = self._usable(content)
            if isinstance(usable, Conversation):
                told = [f"{key}_not_used" for key in _FOR_TEMPLATES if record.value.get(key)]
                add_counts(self.statistics.repaired, dict.fromkeys(told, 1))
            if usable is not None:
                self.statistics.conversations += 1
                self._number += 1
                origin = Origin(
                    self._number, content_key(usable), source, file, place_in_file(record, name)
                )
                yield Item(usable, record.where, origin)

    def _hint(self, record: Any) -> str:
        """What would read the first records that are refused, while none was read."""
        if self.statistics.conversations or self.statistics.examples_of_skipped:
            return ""
        settings = suggest(record, self._data.format)
        return f"; these settings read it: {settings}" if settings else ""

    def _usable(self, content: Conversation | Passage) -> Conversation | Passage | None:
        if isinstance(content, Passage):
            if content.completion.strip():
                return content
            add_counts(self.statistics.repaired, {"empty": 1})
            return None
        repaired, policies = repair(content)
        if repaired is not None and any(_MEDIA_PLACE.search(m.content) for m in content.messages):
            policies["media_placeholder_in_text"] = 1
        add_counts(self.statistics.repaired, policies)
        if repaired is not None and self._data.train_on is TrainOn.last_turn:
            *before, last = repaired.messages
            return replace(
                repaired, messages=[*(replace(m, weight=0.0, earlier=()) for m in before), last]
            )
        return repaired
