"""Measure how long an evaluation takes, and how fast its samples are built.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_evaluation [cpu|cuda]

On a CPU: a Llama of 0.5M parameters, six tasks of 25 samples at four lengths to 1,024 tokens, which
is to take a minute at most. On CUDA: one of SmolLM2-135M's shape, to 32,768 tokens, in 90 seconds.
"""

import random
import sys
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sft_app.config.schema.evaluation import Scoring
from sft_app.evaluation.measure import measure_tasks
from sft_app.evaluation.tasks.assemble import Material
from sft_app.evaluation.tasks.build import TaskSamples
from sft_app.evaluation.tasks.encoder import Encoder
from sft_app.evaluation.tasks.haystack import NOISE, noise_haystack
from sft_app.evaluation.tasks.needles import INTRO
from sft_app.evaluation.tasks.prompt_frame import prompt_frame
from sft_app.evaluation.tasks.words import ADJECTIVES, NOUNS, made_words
from sft_app.evaluation.token_reader import TokenReader
from sft_app.pretrain.train_tokenizer import learn_tokenizer
from tests.benchmarks.measuring import write_table

TASKS = ("passkey", "niah_single", "niah_multikey", "niah_multivalue", "niah_multiquery",
         "variable_tracking")  # fmt: skip
SAMPLES = 25
SMALL: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2,
                         "num_attention_heads": 4}  # fmt: skip
SMOLLM2: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                           "num_attention_heads": 9, "num_key_value_heads": 3}  # fmt: skip


def main(device: str = "cpu") -> None:
    tokenizer = small_tokenizer()
    on_gpu = device == "cuda"
    lengths = (4096, 8192, 16384, 32768) if on_gpu else (320, 512, 768, 1024)
    torch.manual_seed(0)
    shape = SMOLLM2 if on_gpu else SMALL
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=lengths[-1], **shape)
    model = LlamaForCausalLM(config).to(device, torch.bfloat16 if on_gpu else torch.float32)
    rows = [build_rate(tokenizer, length) for length in (1024, 32768)]
    rows.append(evaluation_time(model.eval(), tokenizer, lengths, device))
    write_table(
        "evaluation" if device == "cpu" else "evaluation_gpu",
        "What an evaluation takes",
        rows,
        goal="a sample of 32,768 tokens in 3 ms; all tasks in 60 s on a CPU, in 90 s on an H100",
    )


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Learned from the words that the tasks are made of."""
    text = " ".join([*NOISE, INTRO, *ADJECTIVES, *NOUNS, *made_words(2000)])
    return learn_tokenizer([text], vocab_size=2048, context_length=1024)


def build_rate(tokenizer: PreTrainedTokenizerFast, length: int) -> dict[str, object]:
    """Build ten samples of each of eight tasks."""
    material = Material(
        Encoder(tokenizer), prompt_frame(tokenizer), noise_haystack(tokenizer, length, 0)
    )
    names = [*TASKS, "frequent_words", *(["common_words"] if length > 4096 else [])]
    tasks = TaskSamples(material, names, (length,), samples=10, seed=random.randrange(2**30))
    list(tasks.of("passkey", length))
    started, cpu = time.perf_counter(), time.process_time()
    for task in names:
        assert all(len(sample.input_ids) == length for sample in tasks.of(task, length))
    count = 10 * len(names)
    return {
        "what": f"one sample of {length:,} tokens",
        "wall s": round((time.perf_counter() - started) / count, 5),
        "CPU s": round((time.process_time() - cpu) / count, 5),
    }


def evaluation_time(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    lengths: tuple[int, ...],
    device: str,
) -> dict[str, object]:
    """Everything after loading: haystack, samples, forwards, scores."""
    started, cpu = time.perf_counter(), time.process_time()
    material = Material(
        Encoder(tokenizer), prompt_frame(tokenizer), noise_haystack(tokenizer, lengths[-1], 0)
    )
    tasks = TaskSamples(material, TASKS, lengths, samples=SAMPLES, seed=0)
    tasks.leave_out_unfit(strict=True)
    measure_tasks(tasks, TokenReader(model, device), Scoring.forced)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    size = sum(p.numel() for p in model.parameters()) / 1e6
    what = f"{len(TASKS)} tasks x {SAMPLES} x {len(lengths)} lengths to {lengths[-1]:,} tokens"
    return {
        "what": f"{what}, {size:.1f}M parameters, {device}",
        "wall s": round(seconds, 2),
        "CPU s": round(cpu_seconds, 2),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
