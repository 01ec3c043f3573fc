"""(4) Our training step against the bare loop of the same model, and (5) utilisation."""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sft_app.training.attention import packed_attention
from sft_app.training.attention.choose_attention import AttentionChoice
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.metrics.flops import flops_of_batch, shape_of
from sft_app.training.metrics.token_counts import Batch
from sft_app.training.packing_plan import PackingPlan
from sft_app.training.prepare_model import PreparedModel
from sft_app.training.sft_trainer import SFTTrainer
from tests.benchmarks.measuring import Timing, take_turns, write_table
from tests.benchmarks.small_llama import packed_row, small_llama

# The first step of a run pays for the optimizer's state, and is left out on both sides.
STEPS, LENGTH, DOCUMENT, LAYERS = 5, 2048, 300, 4
LEARNING_RATE = 1e-4
PRODUCTS, SIZE = 100, 1024


@dataclass(frozen=True)
class Width:
    """A narrow model spends more of its time beside matrix products, a large vocabulary less."""

    hidden: int
    vocabulary: int


WIDTHS = (Width(512, 8192), Width(256, 32_768))


def main() -> None:
    write_table(
        "step",
        f"A step of {LENGTH} packed tokens, Llamas of {LAYERS} layers",
        [row for width in WIDTHS for row in rows_of(width)],
        goal="at most 1.03 times the bare loop; at least 0.60 of the rate of matrix products",
    )


def rows_of(width: Width) -> list[dict[str, Any]]:
    """Return the table's rows of models of one width."""
    row = packed_row(LENGTH, DOCUMENT, supervised_share=0.6)
    example = {key: tensor[0] for key, tensor in row.items()}
    attention = AttentionChoice(packed_attention.NAME, "benchmark")
    shape = {"hidden": width.hidden, "layers": LAYERS, "vocabulary": width.vocabulary}
    model = small_llama(packed_attention.NAME, **shape)
    prepared = PreparedModel(
        model,
        PackingPlan(True, "benchmark"),
        attention,
        install_chunked_loss(model),
        shape_of(model),
    )
    twin = small_llama(packed_attention.NAME, **shape)
    install_chunked_loss(twin)
    left, right = torch.randn(2, SIZE, SIZE)
    timings = take_turns(
        {
            "matrix products": lambda: [left @ right for _ in range(PRODUCTS)],
            "bare loop": lambda: bare_loop(twin, row),
            "SFTTrainer": lambda: trained_by_us(prepared, example),
        },
        rounds=5,
    )

    supervised = int((row["labels"][:, 1:] != -100).sum())
    lengths = [DOCUMENT] * (LENGTH // DOCUMENT) + [LENGTH % DOCUMENT]
    flops = (STEPS - 1) * flops_of_batch(prepared.shape, lengths, supervised)
    # Taken in turn with the steps: neighbours slow a CPU second of both down alike.
    rate = PRODUCTS * 2 * SIZE**3 / timings["matrix products"].cpu_seconds
    name_of_model = (
        f"{shape_millions(model):.0f}M, width {width.hidden}, {width.vocabulary:,} words"
    )
    rows: list[dict[str, Any]] = []
    for name in ("bare loop", "SFTTrainer"):
        timing = timings[name]
        rows.append(
            {
                "model": name_of_model,
                "step": name,
                "wall s": timing.wall_seconds / (STEPS - 1),
                "CPU s": timing.cpu_seconds / (STEPS - 1),
                "time of the loop (CPU)": timing.cpu_seconds / timings["bare loop"].cpu_seconds,
                "GFLOP per CPU s": flops / timing.cpu_seconds / 1e9,
                "share of matrix products": flops / timing.cpu_seconds / rate,
            }
        )
    rows.append({"model": name_of_model, "step": "matrix products", "GFLOP per CPU s": rate / 1e9})
    return rows


def bare_loop(model: PreTrainedModel, row: Batch) -> Timing:
    """What nobody can leave out: forward, backward, clip, step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    num_items = int((row["labels"][:, 1:] != -100).sum())
    for step in range(STEPS):
        if step == 1:
            start = now()
        model(**row, num_items_in_batch=num_items).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return since(start)


def now() -> Timing:
    return Timing(time.perf_counter(), time.process_time())


def since(start: Timing) -> Timing:
    end = now()
    return Timing(
        end.wall_seconds - start.wall_seconds,
        end.cpu_seconds - start.cpu_seconds,
    )


class TimeTheSteps(TrainerCallback):
    """From the end of the first step to the end of the last, loading and logging included."""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.start = now()
        if state.global_step == STEPS:
            self.timing = since(self.start)


def trained_by_us(prepared: PreparedModel, example: Batch) -> Timing:
    timer = TimeTheSteps()
    trainer = trainer_of(prepared, example)
    trainer.add_callback(timer)
    trainer.train()
    return timer.timing


def trainer_of(prepared: PreparedModel, example: Batch) -> SFTTrainer:
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=1,
        learning_rate=LEARNING_RATE,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        prepared=prepared, args=args, data_collator=stack, train_dataset=[example] * STEPS
    )
    trainer.remove_callback(PrinterCallback)
    trainer.count.measured_rate = 1.0  # measured here already: not part of the step
    return trainer


def stack(items: list[Batch]) -> Batch:
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def shape_millions(model: PreTrainedModel) -> float:
    return model.num_parameters() / 1e6


if __name__ == "__main__":
    main()
