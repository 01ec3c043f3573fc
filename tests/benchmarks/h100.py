"""What one GPU reaches: utilisation, tokens a second, varlen against a mask, longest context.

    python tests/benchmarks/h100.py [--out DIR]      on the GPU, some 15 minutes
    python tests/benchmarks/h100.py --smoke          tiny shapes on the CPU: does the script run?

Random weights, random tokens: neither changes the speed. Goals for one H100 with 80 GB stand in the
table's last column.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.config.adapter import AdapterConfig, AdapterMethod
from sft_app.training import packed_attention
from sft_app.training.adapter import add_adapter
from sft_app.training.attention_kernels import AttentionSettings, choose_kernel
from sft_app.training.documents import documents_of_lengths
from sft_app.training.flops import flops_of_batch, shape_of
from sft_app.training.loss import install_chunked_loss
from sft_app.training.throughput import datasheet_rate, measure_matmul_rate, utilisation

ONE_BILLION = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "tie_word_embeddings": True,
}
EIGHT_BILLION = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
}
SMOKE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Bench:
    device: torch.device
    dtype: torch.dtype
    smoke: bool

    def model(self, shape: dict[str, Any], *, lora: bool, checkpointing: bool) -> torch.nn.Module:
        """Llama of this shape with Llama 3's vocabulary; with an adapter, only that is trained."""
        config = LlamaConfig(
            vocab_size=512 if self.smoke else 128_256,
            max_position_embeddings=2**21,
            use_cache=False,
            dtype=self.dtype,
            attn_implementation=packed_attention.NAME,
            **(SMOKE if self.smoke else shape),
        )
        with self.device:
            model = LlamaForCausalLM(config).to(self.dtype).train()
        install_chunked_loss(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        method = AdapterMethod.lora if lora else AdapterMethod.none
        if lora and checkpointing:
            model.enable_input_require_grads()
        return add_adapter(model, AdapterConfig(method=method), seed=0)

    def row(self, length: int, document: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(500, (1, length), device=self.device)
        positions = torch.arange(length, device=self.device)[None] % document
        return {"input_ids": tokens, "labels": tokens.clone(), "position_ids": positions}

    def seconds(self, work: Callable[[], object], rounds: int) -> float:
        """Mean wall seconds, the device waited for; two rounds to warm up."""
        for _ in range(2):
            work()
        self.wait()
        started = time.perf_counter()
        for _ in range(rounds):
            work()
        self.wait()
        return (time.perf_counter() - started) / rounds

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forget(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def training_step(model: torch.nn.Module, row: dict[str, torch.Tensor]) -> Callable[[], None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    num_items = row["labels"][:, 1:].numel()

    def step() -> None:
        model(**row, num_items_in_batch=num_items).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def speed(
    bench: Bench, name: str, shape: dict[str, Any], *, length: int, lora: bool, goal: str
) -> dict[str, Any]:
    """One optimizer step a row of `length` tokens, a single document."""
    length = 256 if bench.smoke else length
    model = bench.model(shape, lora=lora, checkpointing=False)
    step = training_step(model, bench.row(length, length))
    seconds = bench.seconds(step, rounds=2 if bench.smoke else 8)
    flops = flops_of_batch(shape_of(model), [length], length - 1)  # type: ignore[arg-type]
    share = utilisation(
        flops,
        seconds,
        datasheet_rate=datasheet_rate(device_name(bench.device)),
        measured_rate=measure_matmul_rate(bench.device, bench.dtype),
    )
    return {
        "what": f"{name}, {length} tokens a step",
        "tokens/s": round(length / seconds),
        "of datasheet": share.of_datasheet,
        "of measured matmul": share.of_measured,
        "peak GB": peak_gigabytes(bench.device),
        "goal": goal,
    }


def varlen_against_mask(bench: Bench) -> dict[str, Any]:
    """Attention alone, forward and backward: 16k tokens in documents of 1k, 8B's heads."""
    length, document = (256, 64) if bench.smoke else (16_384, 1024)
    query, key, value = (
        torch.randn(length, h, 128, device=bench.device, dtype=bench.dtype, requires_grad=True)
        for h in (32, 8, 8)
    )
    documents = documents_of_lengths([document] * (length // document), bench.device)
    settings = AttentionSettings()
    kernel = choose_kernel(query, value, settings)
    number = torch.arange(length, device=bench.device) // document
    mask = (number[:, None] == number[None, :]).tril()[None, None]

    def dense() -> None:
        q, k, v = (t.transpose(0, 1)[None] for t in (query, key, value))
        k, v = k.repeat_interleave(4, 1), v.repeat_interleave(4, 1)  # masked kernels have no GQA
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()

    def ours() -> None:
        kernel(query, key, value, documents, settings).sum().backward()

    ratio = bench.seconds(dense, 3) / bench.seconds(ours, 3)
    return {
        "what": f"{kernel.__name__} against a dense mask, {length} tokens",
        "speedup": ratio,
        "goal": "3",
    }


def longest_context(
    bench: Bench, name: str, shape: dict[str, Any], *, lora: bool, goal: str
) -> dict[str, Any]:
    """The longest single document of which one step fits, by doubling and then halving gaps."""
    step_size = 64 if bench.smoke else 16_384
    limit = 512 if bench.smoke else 2**21
    model = bench.model(shape, lora=lora, checkpointing=True)
    fits, fails = 0, limit + step_size
    length = step_size
    while fails - fits > step_size:
        if one_step_fits(bench, model, length):
            fits = length
        else:
            fails = length
        following = 2 * fits if fails > limit else (fits + fails) // 2
        length = min(following, limit) // step_size * step_size
        if fits >= limit:
            break
    return {"what": f"longest context, {name}, one step", "tokens": fits, "goal": goal}


def one_step_fits(bench: Bench, model: torch.nn.Module, length: int) -> bool:
    bench.forget()
    try:
        training_step(model, bench.row(length, length))()
        bench.wait()
    except torch.OutOfMemoryError:
        fits = False
    else:
        fits = True
    model.zero_grad()
    bench.forget()
    print(f"  {length} tokens: {'fits' if fits else 'out of memory'}", flush=True)
    return fits


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_gigabytes(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    packed_attention.register()
    device = torch.device("cpu" if options.smoke else "cuda")
    bench = Bench(device, torch.float32 if options.smoke else torch.bfloat16, options.smoke)
    full, adapter = "1B, all parameters", "8B, LoRA"
    work: list[Callable[[], dict[str, Any]]] = [
        lambda: speed(bench, full, ONE_BILLION, length=8192, lora=False, goal="0.45 of datasheet"),
        lambda: speed(bench, adapter, EIGHT_BILLION, length=4096, lora=True, goal="13000 tokens/s"),
        lambda: varlen_against_mask(bench),
        lambda: longest_context(bench, full, ONE_BILLION, lora=False, goal="524288"),
        lambda: longest_context(bench, adapter, EIGHT_BILLION, lora=True, goal="262144"),
    ]
    rows = []
    for measure in work:
        bench.forget()
        rows.append(measure())
        print(json.dumps(rows[-1]), flush=True)
        write(rows, options.out, device_name(device))  # what was measured stays if the next fails


def write(rows: list[dict[str, Any]], directory: Path, device: str) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
    for row in rows:
        cells = [row.get(column) for column in columns]
        shown = [f"{c:.3g}" if isinstance(c, float) else str("" if c is None else c) for c in cells]
        lines.append(f"| {' | '.join(shown)} |")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    about = {"device": device, **versions}
    directory.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["## One GPU", "", *lines, "", f"Measured on: {about}.", ""])
    (directory / "one_gpu.md").write_text(text)
    (directory / "one_gpu.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
