"""(8) What the host does in a training step: its time, and how often it waits for the device.

A model of one narrow layer repeated has next to no arithmetic: what is left of a micro-batch is
the host's time, which a GPU has to wait for. How often values of the device are read is counted
(host_waits.py).
"""

import statistics
import tempfile
import time
from typing import Any

import torch
from transformers import LlamaForCausalLM, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sft_app.training.attention import packed_attention
from sft_app.training.attention.choose_attention import AttentionChoice
from sft_app.training.attention.packed_forward import install_packed_forward
from sft_app.training.loss.patched_forward import install_chunked_loss
from sft_app.training.metrics.flops import flops_of_batch, shape_of
from sft_app.training.packing_plan import PackingPlan
from sft_app.training.prepare_model import PreparedModel
from sft_app.training.sft_trainer import SFTTrainer
from tests.benchmarks.bench_step import stack
from tests.benchmarks.host_waits import HostWaits
from tests.benchmarks.measuring import write_table
from tests.benchmarks.small_llama import packed_row, small_llama

STEPS, ACCUMULATED, LENGTH, DOCUMENT = 4, 4, 64, 16
ROUNDS = 5


def main() -> None:
    rows: list[dict[str, Any]] = []
    for layers, padded in ((4, False), (32, False), (4, True)):
        model = small_llama(packed_attention.NAME, hidden=128, layers=layers)
        waits, seconds = trained(model, padded=padded)
        case = {"layers": layers, "rows": "padded" if padded else "packed"}
        rows.append(
            {
                **case,
                "CPU ms a micro-batch": 1e3 * seconds,
                "waits a step of 4 micro-batches": waits.total / (STEPS - 1),
            }
        )
        for place, times in waits.places.most_common():
            rows.append({**case, "waits in all": times, "place": place})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    rows = [{column: row.get(column) for column in columns} for row in rows]
    shape = shape_of(small_llama(packed_attention.NAME, hidden=128, layers=80))
    began = time.process_time()
    for _ in range(100):
        flops_of_batch(shape, [16] * 2048, 1000)
    milliseconds = 10 * (time.process_time() - began)
    rows.append({"layers": 80, "CPU ms to count FLOPs of 2,048 documents": milliseconds})
    write_table(
        "host_time",
        f"The host's part of a step of {ACCUMULATED} micro-batches of {LENGTH} tokens",
        [{**dict.fromkeys(rows[-1]), **row} for row in rows],
        goal="a wait for the device at most once for each optimizer step, beside what is logged",
    )


def trained(
    model: LlamaForCausalLM, position_target: int | None = None, *, padded: bool = False
) -> tuple[HostWaits, float]:
    """Return what was read after the first step, and CPU seconds of a micro-batch (median).

    `padded`: each row is a text of its own, and a fifth of it padding, instead of several packed.
    """
    install_packed_forward(model)
    prepared = PreparedModel(
        model,
        PackingPlan(not padded, "benchmark"),
        AttentionChoice(packed_attention.NAME, "benchmark"),
        install_chunked_loss(model),
        shape_of(model),
    )
    counted = _train(prepared, HostWaits(model), position_target)
    timed = [_train(prepared, None, position_target).seconds for _ in range(ROUNDS)]
    assert counted.waits is not None
    return counted.waits, statistics.median(timed) / (STEPS - 1) / ACCUMULATED


class _AfterTheFirstStep(TrainerCallback):
    """Counts and measures from the end of the first step to the last optimizer step."""

    def __init__(self, waits: HostWaits | None) -> None:
        self.waits = waits
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.began = time.process_time()
            if self.waits is not None:
                self.waits.__enter__()
        if state.global_step == STEPS:
            self.seconds = time.process_time() - self.began
            if self.waits is not None:
                self.waits.__exit__(None, None, None)


def _train(
    prepared: PreparedModel, waits: HostWaits | None, position_target: int | None
) -> _AfterTheFirstStep:
    document = DOCUMENT if prepared.packing.packed else LENGTH
    row = {key: tensor[0] for key, tensor in packed_row(LENGTH, document, 0.6).items()}
    if not prepared.packing.packed:
        row["attention_mask"] = (row.pop("position_ids") < LENGTH * 4 // 5).long()
        row["labels"] = row["labels"].masked_fill(row["attention_mask"] == 0, -100)
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ACCUMULATED,
        logging_steps=1000,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        prepared=prepared,
        args=args,
        data_collator=stack,
        train_dataset=[row] * STEPS * ACCUMULATED,
        position_target=position_target,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.count.measured_rate = 1.0  # not part of a step
    callback = _AfterTheFirstStep(waits)
    trainer.add_callback(callback)
    with torch.random.fork_rng():
        trainer.train()
    return callback


if __name__ == "__main__":
    main()
