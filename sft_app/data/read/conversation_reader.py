"""The reading half of the chain: sources to usable conversations, and a count of the rest."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sft_app.common.errors import DataError
from sft_app.config.schema.data import DataConfig, DataFormat, OnBadRecord, TrainOn
from sft_app.data.chat.conversation import Conversation, Passage, content_key
from sft_app.data.chat.formats import NotThisFormat, detect, normalise
from sft_app.data.chat.repair import repair
from sft_app.data.read.read_files import read_file
from sft_app.data.read.read_hub import read_hub
from sft_app.data.read.record import BadRecord, Origin, Record
from sft_app.data.read.sources import Source
from sft_app.data.statistics import ReadStatistics, add_counts

log = logging.getLogger(__name__)

_MESSAGES_KEPT = 5


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
        self.statistics = ReadStatistics()

    def read(self, sources: list[Source]) -> Iterator[Item]:
        """Yield every usable conversation, in the order of the sources and of their files."""
        for number, source in enumerate(sources):
            if source.files:
                for file in source.files:
                    yield from self._read_records(read_file(file), str(file), number)
            else:
                yield from self._read_records(read_hub(source.name), source.name, number)

    def bad_record(self, reason: str, message: str) -> None:
        """Raise DataError, or count the record by `reason`, as `data.on_bad_record` says."""
        if self._data.on_bad_record is OnBadRecord.error:
            raise DataError(f"{message}; data.on_bad_record=skip leaves it out and counts it")
        add_counts(self.statistics.skipped, {reason: 1})
        if len(self.statistics.examples_of_skipped) < _MESSAGES_KEPT:
            self.statistics.examples_of_skipped.append(message)

    def _read_records(
        self, records: Iterator[Record | BadRecord], name: str, source: int
    ) -> Iterator[Item]:
        format = self._data.format
        for record in records:
            self.statistics.records += 1
            if isinstance(record, BadRecord):
                self.bad_record(record.reason, record.message)
                continue
            try:
                if format is DataFormat.auto:
                    format = detect(record.value)
                    log.info("%s: format %s, seen from its records", name, format.value)
                content = normalise(record.value, format)
            except NotThisFormat as error:
                self.bad_record("not_this_format", f"{record.where}: {error}")
                continue
            add_counts(self.statistics.formats, {format.value: 1})
            usable = self._usable(content)
            if usable is not None:
                self.statistics.conversations += 1
                origin = Origin(self.statistics.conversations, content_key(usable), source)
                yield Item(usable, record.where, origin)

    def _usable(self, content: Conversation | Passage) -> Conversation | Passage | None:
        if isinstance(content, Passage):
            if content.completion.strip():
                return content
            add_counts(self.statistics.repaired, {"empty": 1})
            return None
        repaired, policies = repair(content)
        add_counts(self.statistics.repaired, policies)
        if repaired is not None and self._data.train_on is TrainOn.last_turn:
            *before, last = repaired.messages
            return replace(repaired, messages=[*(replace(m, weight=0.0) for m in before), last])
        return repaired
