"""What one GPU reaches: utilisation, tokens a second, attention, loss heads, longest context.

    python tests/benchmarks/h100.py [--out DIR]      on the GPU, in 9 minutes (--seconds N)
    python tests/benchmarks/h100.py --smoke          tiny shapes on the CPU: does the script run?

What is measured is what a user gets by default: trained weights in float32, multiplied in bfloat16
under autocast, frozen ones in bfloat16, the loss in chunks. The longest contexts have checkpointing
with offload, and MLPs in tiles, as trainer.tiled_mlp=auto has them there.

Random weights, random tokens: neither changes the speed. Goals for one H100 with 80 GB stand in the
table's last column. A part that fails says so in its row and leaves the others alone; the search
for the longest contexts takes what time is left.
"""

import argparse
import gc
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.activation_memory.tile_layers import install_tiles
from sft_app.training.activation_memory.tiling_plan import tile_tokens
from sft_app.training.attention import packed_attention
from sft_app.training.attention.document_bounds import documents_of_lengths
from sft_app.training.attention.kernels import AttentionSettings, choose_kernel
from sft_app.training.callbacks.compile_layers import CompileLayers
from sft_app.training.callbacks.offload_activations import OffloadActivations
from sft_app.training.loss.chunked_cross_entropy import chunked_cross_entropy
from sft_app.training.loss.liger_cross_entropy import liger_cross_entropy
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.metrics.flops import flops_of_batch, shape_of
from sft_app.training.metrics.throughput import datasheet_rate, measure_matmul_rate, utilisation
from sft_app.training.peft.lora import add_adapter

SECONDS_TO_COMPILE = 90
"""Kept for the last part: what its compiler does cannot be interrupted."""

Row = dict[str, Any]
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

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
    """In which matrices are multiplied."""
    smoke: bool

    def model(self, shape: dict[str, Any], *, lora: bool, long: bool) -> torch.nn.Module:
        """Llama of this shape with Llama 3's vocabulary; with an adapter, only that is trained.

        `long`: with all that makes long rows fit.
        """
        dtype = self.dtype if lora else torch.float32
        config = LlamaConfig(
            vocab_size=512 if self.smoke else 128_256,
            max_position_embeddings=2**21,
            use_cache=False,
            dtype=dtype,
            attn_implementation=packed_attention.NAME,
            **(SMOKE if self.smoke else shape),
        )
        with self.device:
            model = LlamaForCausalLM(config).to(dtype).train()
        install_chunked_loss(model)
        if long:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            install_tiles(model, tile_tokens(self.device))
            OffloadActivations(model, self.device).on_train_begin()
        method = AdapterMethod.lora if lora else AdapterMethod.none
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

    def autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if enabled else None, enabled=enabled)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def forget(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def training_step(
    bench: Bench, model: torch.nn.Module, row: dict[str, torch.Tensor]
) -> Callable[[], None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    num_items = row["labels"][:, 1:].numel()

    def step() -> None:
        with bench.autocast():
            loss = model(**row, num_items_in_batch=num_items).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def speed(
    bench: Bench,
    shape: dict[str, Any],
    *,
    length: int,
    lora: bool = False,
    compiled: bool = False,
) -> Row:
    """One optimizer step a row of `length` tokens, a single document."""
    length = 256 if bench.smoke else length
    model = bench.model(shape, lora=lora, long=False)
    if compiled:
        CompileLayers(model).on_train_begin()
    step = training_step(bench, model, bench.row(length, length))
    seconds = bench.seconds(step, rounds=2 if bench.smoke else 8)
    flops = flops_of_batch(shape_of(model), [length], length - 1)
    share = utilisation(
        flops,
        seconds,
        datasheet_rate=datasheet_rate(device_name(bench.device)),
        measured_rate=measure_matmul_rate(bench.device, bench.dtype),
    )
    return {
        "tokens": length,
        "tokens/s": round(length / seconds),
        "of datasheet": share.of_datasheet,
        "of measured matmul": share.of_measured,
        "peak GB": peak_gigabytes(bench.device),
    }


def varlen_against_mask(bench: Bench) -> Row:
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
    return {"note": kernel.__name__, "tokens": length, "speedup": ratio}


def loss_heads(bench: Bench) -> dict[str, Head]:
    """All that are installed and run on this device; each returns the sum over positions."""

    def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")

    heads: dict[str, Head] = {"plain": plain, "chunked": chunked_cross_entropy}
    on_gpu = bench.device.type == "cuda"
    if on_gpu and importlib.util.find_spec("liger_kernel") is not None:
        heads["liger"] = liger_cross_entropy
    if on_gpu and importlib.util.find_spec("cut_cross_entropy") is not None:
        from cut_cross_entropy import linear_cross_entropy as cut

        heads["cut_cross_entropy"] = lambda h, w, t: cut(h, w, t, reduction="sum")
        heads["cut_cross_entropy, unfiltered"] = lambda h, w, t: cut(
            h, w, t, reduction="sum", filter_eps=None
        )
    if hasattr(F, "linear_cross_entropy"):  # torch 2.13
        heads["torch"] = lambda h, w, t: F.linear_cross_entropy(h, w, t, reduction="sum")
    return heads


def loss_head(bench: Bench, head: Head, *, frozen: bool = False) -> Row:
    """Forward and backward of 16k supervised positions, 8B's head; how far gradients are off."""
    positions, hidden_size, words = (128, 64, 512) if bench.smoke else (16_384, 4096, 128_256)
    torch.manual_seed(0)
    hidden = torch.randn(positions, hidden_size, device=bench.device, dtype=bench.dtype)
    weight = torch.randn(words, hidden_size, device=bench.device, dtype=bench.dtype)
    weight.mul_(hidden_size**-0.5).requires_grad_(not frozen)
    hidden.requires_grad_()
    targets = torch.randint(words, (positions,), device=bench.device)

    def work() -> None:
        hidden.grad = weight.grad = None
        head(hidden, weight, targets).backward()

    bench.forget()
    held = torch.cuda.memory_allocated() / 1e9 if bench.device.type == "cuda" else 0.0
    seconds = bench.seconds(work, 3)
    peak = peak_gigabytes(bench.device)
    few = slice(0, 128)  # a row of the hidden states' gradient depends on no other row
    exact = hidden[few].detach().float().requires_grad_()
    logits = F.linear(exact, weight.detach().float())
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, targets[few], reduction="sum"), exact)
    assert hidden.grad is not None
    off = (hidden.grad[few].float() - expected).norm() / expected.norm()
    return {
        "tokens": positions,
        "tokens/s": round(positions / seconds),
        "peak GB": None if peak is None else peak - held,
        "gradient off by": off.item(),
    }


def longest_context(bench: Bench, shape: dict[str, Any], *, lora: bool, until: float) -> Row:
    """The longest single document of which one step fits, by doubling and then halving gaps.

    `until` (time.monotonic): a length that would take longer, by the square of the last, is left.
    """
    step_size = 64 if bench.smoke else 32_768
    limit = 512 if bench.smoke else 2**21
    model = bench.model(shape, lora=lora, long=True)
    fits, fails, seconds = 0, limit + step_size, 0.0
    length, note = 2 * step_size if bench.smoke else 131_072, ""
    while fits < limit and fails - fits > step_size:
        if fits and time.monotonic() + seconds * (length / fits) ** 2 > until:
            note = f"no time left to try {length}"
            break
        started = time.monotonic()
        if one_step_fits(bench, model, length):
            fits, seconds = length, time.monotonic() - started
        else:
            fails = length
        following = 2 * fits if fails > limit else (fits + fails) // 2
        length = max(step_size, min(following, limit) // step_size * step_size)
    return {"tokens": fits, "note": note}


def one_step_fits(bench: Bench, model: torch.nn.Module, length: int) -> bool:
    bench.forget()
    try:
        training_step(bench, model, bench.row(length, length))()
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


def parts(bench: Bench, deadline: float) -> dict[tuple[str, str], Callable[[], Row]]:
    """(what, goal) -> what measures it."""
    full, adapter = "1B, all parameters", "8B, LoRA"
    heads = loss_heads(bench)
    work: dict[tuple[str, str], Callable[[], Row]] = {
        (full, "0.45 of datasheet"): lambda: speed(bench, ONE_BILLION, length=8192),
        (adapter, "13000 tokens/s"): lambda: speed(bench, EIGHT_BILLION, length=4096, lora=True),
        ("documents of 1024 against a dense mask", "3"): lambda: varlen_against_mask(bench),
    }
    for name, head in heads.items():
        work[f"loss head {name}", ""] = partial(loss_head, bench, head)
        work[f"loss head {name}, frozen", ""] = partial(loss_head, bench, head, frozen=True)
    searches_end = deadline - SECONDS_TO_COMPILE
    work[f"longest context, {full}", "524288"] = lambda: longest_context(
        bench, ONE_BILLION, lora=False, until=(time.monotonic() + searches_end) / 2
    )
    work[f"longest context, {adapter}", "262144"] = lambda: longest_context(
        bench, EIGHT_BILLION, lora=True, until=searches_end
    )
    work[f"{full}, layers compiled", ""] = lambda: speed(
        bench, ONE_BILLION, length=8192, compiled=True
    )
    return work


def measured_or_failed(measure: Callable[[], Row]) -> Row:
    try:
        return measure()
    except Exception as error:  # whatever it is, the other rows are worth having
        said = str(error).strip().splitlines() or [""]
        return {"note": f"{type(error).__name__}: {said[0][:120]}"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    parser.add_argument("--seconds", type=float, default=540.0)
    options = parser.parse_args()
    packed_attention.register()
    device = torch.device("cpu" if options.smoke else "cuda")
    bench = Bench(device, torch.float32 if options.smoke else torch.bfloat16, options.smoke)
    rows, text = [], ""
    for (what, goal), measure in parts(bench, time.monotonic() + options.seconds).items():
        bench.forget()
        started = time.monotonic()
        row = {"what": what, **measured_or_failed(measure)}
        row |= {"part s": round(time.monotonic() - started), "goal": goal}
        rows.append(row)
        print(json.dumps(row), flush=True)
        text = write(rows, options.out, device_name(device))  # stays if the next kills the process
    print(f"\n{text}")


def write(rows: list[Row], directory: Path, device: str) -> str:
    columns = [*dict.fromkeys(key for row in rows for key in row if key != "goal"), "goal"]
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
    return text


if __name__ == "__main__":
    main()
