"""(10) MLPs and norms in tiles of the sequence against whole rows, in a checkpointed step.

The arithmetic grows by one matrix product in each MLP: 2% of such a step.
"""

from functools import partial

from sft_app.training.activation_memory.tile_layers import install_tiles
from sft_app.training.activation_memory.tiling_plan import TILE_TOKENS_CPU
from sft_app.training.attention import packed_attention
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.benchmarks.measuring import extra_peak_bytes, take_turns, write_table
from tests.benchmarks.small_llama import packed_row, small_llama

LENGTH, HIDDEN, LAYERS = 8192, 512, 2


def main() -> None:
    row = packed_row(LENGTH, LENGTH, supervised_share=0.6)
    models = {}
    for name in ("whole rows", "in tiles"):
        models[name] = small_llama(packed_attention.NAME, hidden=HIDDEN, layers=LAYERS)
        install_chunked_loss(models[name])
        models[name].gradient_checkpointing_enable({"use_reentrant": False})
        models[name].enable_input_require_grads()
    install_tiles(models["in tiles"], TILE_TOKENS_CPU)

    def step(name: str) -> float:
        models[name].zero_grad()
        loss = models[name](**row, num_items_in_batch=1000).loss
        loss.backward()
        return float(loss.item())

    assert abs(step("in tiles") - step("whole rows")) < 1e-5 * step("whole rows")
    peaks = {name: extra_peak_bytes(partial(step, name)) for name in models}
    timings = take_turns({name: partial(step, name) for name in models}, rounds=9)
    rows = [
        {
            "MLPs and norms": name,
            "wall s": timing.wall_seconds,
            "CPU s": timing.cpu_seconds,
            "time of whole rows (CPU)": timing.cpu_seconds / timings["whole rows"].cpu_seconds,
            "peak MB": peaks[name] / 1e6,
        }
        for name, timing in timings.items()
    ]
    write_table(
        "tiled_mlp",
        f"A step of a row of {LENGTH} tokens, {LAYERS} checkpointed layers of width {HIDDEN}",
        rows,
        goal="1.05 of the time",
    )


if __name__ == "__main__":
    main()
