"""(6) Layers that are compiled, each for itself, against the same layers as they are."""

import time
from functools import partial

from sft_app.training.attention import packed_attention
from sft_app.training.callbacks.compile_layers import CompileLayers
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.benchmarks.measuring import take_turns, write_table
from tests.benchmarks.small_llama import packed_row, small_llama

LENGTH, DOCUMENT, HIDDEN, LAYERS = 2048, 300, 512, 4


def main() -> None:
    row = packed_row(LENGTH, DOCUMENT, supervised_share=0.6)
    models = {}
    for name in ("plain", "compiled"):
        models[name] = small_llama(packed_attention.NAME, hidden=HIDDEN, layers=LAYERS)
        install_chunked_loss(models[name])
    CompileLayers(models["compiled"]).on_train_begin()

    def step(name: str) -> float:
        models[name].zero_grad()
        loss = models[name](**row, num_items_in_batch=1000).loss
        loss.backward()
        return loss.item()

    started = time.perf_counter()
    first = step("compiled")
    compiling = time.perf_counter() - started
    plain = step("plain")
    assert abs(first - plain) < 1e-5 * plain, (first, plain)
    timings = take_turns({name: partial(step, name) for name in models}, rounds=7)
    rows = [
        {
            "layers": name,
            "wall s": timing.wall_seconds,
            "CPU s": timing.cpu_seconds,
            "time of plain (CPU)": timing.cpu_seconds / timings["plain"].cpu_seconds,
            "first step, wall s": compiling if name == "compiled" else None,
        }
        for name, timing in timings.items()
    ]
    write_table(
        "compile",
        f"Forward and backward of a row of {LENGTH} tokens, {LAYERS} layers of width {HIDDEN}",
        rows,
        goal="none: on a CPU it is the matrix products that count, and they are not compiled",
    )


if __name__ == "__main__":
    main()
