"""(6) How long a user waits: for help, for the composed configuration, for the first step."""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from tests.benchmarks.bench_data import cpu_seconds, train_tokenizer
from tests.benchmarks.measuring import Timing, take_turns, write_table

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
ONE_STEP = (
    "context_length=128", "trainer.max_steps=1", "trainer.save_strategy=no", "evaluation=none",
    "launch.device=cpu", "hydra.run.dir=run",
)  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        inputs = make_inputs(work)
        commands = {
            "sft-train --help": ["--help"],
            "sft-train --cfg job": ["--cfg", "job"],
            "sft-train, one step of a tiny model, saved": [*inputs, *ONE_STEP],
        }
        timings = take_turns(
            {name: partial(run, arguments, work) for name, arguments in commands.items()},
            rounds=2,
        )
    rows = [
        {"command": name, "wall s": timing.wall_seconds, "CPU s": timing.cpu_seconds}
        for name, timing in timings.items()
    ]
    write_table(
        "startup",
        "From the command to its end",
        rows,
        goal="help and the configuration in about a second of CPU time: torch is not imported",
    )


def make_inputs(work: Path) -> list[str]:
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(work / "model")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(work / "model")
    chats = [
        {
            "id": str(i),
            "conversations": [
                {"from": "human", "value": f"{i} + {i}?"},
                {"from": "gpt", "value": f"It is {2 * i}."},
            ],
        }
        for i in range(40)
    ]
    (work / "chat.json").write_text(json.dumps(chats))
    return [f"model.name_or_path={work / 'model'}", f"data.train={work / 'chat.json'}"]


def run(arguments: list[str], work: Path) -> Timing:
    wall, cpu = time.perf_counter(), cpu_seconds()
    program = Path(sys.executable).with_name("sft-train")
    subprocess.run(
        [str(program), *arguments],
        cwd=work, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return Timing(time.perf_counter() - wall, cpu_seconds() - cpu)


if __name__ == "__main__":
    main()
