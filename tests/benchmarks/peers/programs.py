"""How each program is told to do the job: its command, and the files of its configuration.

Each packs as it can, keeps its activations, computes in float32 with a fused AdamW, attends with
torch's SDPA, logs the loss of each step, writes no checkpoint but the last, and reports to nobody.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.job import CONTEXT, HEADS, HIDDEN, LAYERS, MLP, VOCABULARY, Job

RATE = 2e-5
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
"""Of Vicuna; the other programs have it in their template."""


@dataclass(frozen=True)
class Program:
    """A trainer in an environment of its own; `write` returns the command, to be run in its cwd."""

    name: str
    package: str
    """Whose version is shown."""
    environment: str | None
    """The folder of its virtual environment; None: the one that runs this."""
    write: Callable[[Job, Path, Path], Sequence[str]]
    """Job, folder of the run, folder of the environment's programs -> command."""
    ends_with: tuple[int, ...] = (0,)


def sft_app(*more: str) -> Callable[[Job, Path, Path], Sequence[str]]:
    """The default command, less the evaluation and the held-out data, which no other has."""

    def write(job: Job, run: Path, programs: Path) -> Sequence[str]:
        return [
            str(programs / "sft-train"),
            f"model.name_or_path={job.model}", f"data.train={job.sharegpt}",
            f"context_length={CONTEXT}", "data.eval_examples=0", "evaluation=none",
            "trainer.gradient_accumulation_steps=1", f"trainer.learning_rate={RATE}",
            "trainer.save_strategy=no", "launch.device=cpu",
            f"data.cache_dir={run / 'cache'}", f"hydra.run.dir={run / 'run'}", *more,
        ]  # fmt: skip

    return write


def of_transformers(run: Path) -> dict[str, Any]:
    """What the programs around transformers' Trainer have in common."""
    return {
        "output_dir": str(run / "out"), "num_train_epochs": 1, "learning_rate": RATE,
        "lr_scheduler_type": "cosine", "warmup_steps": 1, "optim": "adamw_torch_fused",
        "gradient_accumulation_steps": 1, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
    }  # fmt: skip


def llama_factory(job: Job, run: Path, programs: Path) -> Sequence[str]:
    data = {"chats": {"file_name": str(job.sharegpt), "formatting": "sharegpt"}}
    (run / "dataset_info.json").write_text(json.dumps(data))
    settings = of_transformers(run) | {
        "stage": "sft", "do_train": True, "finetuning_type": "full",
        "model_name_or_path": str(job.model), "template": "vicuna", "flash_attn": "sdpa",
        "dataset": "chats", "dataset_dir": str(run), "cutoff_len": CONTEXT,
        "packing": True, "neat_packing": True, "per_device_train_batch_size": 1,
        "disable_gradient_checkpointing": True, "overwrite_output_dir": True,
    }  # fmt: skip
    return [str(programs / "llamafactory-cli"), "train", _written(settings, run)]


def trl(job: Job, run: Path, programs: Path) -> Sequence[str]:
    settings = of_transformers(run) | {
        "model_name_or_path": str(job.model), "attn_implementation": "sdpa", "dtype": "float32",
        "dataset_name": str(job.messages), "assistant_only_loss": True, "max_length": CONTEXT,
        "packing": True, "packing_strategy": "bfd", "per_device_train_batch_size": 1,
        "gradient_checkpointing": False,
    }  # fmt: skip
    return [str(programs / "python"), "-m", "trl.scripts.sft", "--config", _written(settings, run)]


def axolotl(job: Job, run: Path, programs: Path) -> Sequence[str]:
    common = of_transformers(run)
    for name in ("num_train_epochs", "lr_scheduler_type", "optim", "report_to", "use_cpu",
                 "disable_tqdm"):  # fmt: skip
        del common[name]
    settings = common | {
        "base_model": str(job.model), "num_epochs": 1, "lr_scheduler": "cosine",
        "optimizer": "adamw_torch_fused", "micro_batch_size": 1, "sequence_len": CONTEXT,
        "sample_packing": True, "pad_to_sequence_len": True, "attn_implementation": "sdpa",
        "gradient_checkpointing": False, "fp16": False, "tf32": False,
        "dataset_prepared_path": str(run / "prepared"), "val_set_size": 0,
        "datasets": [{
            "path": str(job.messages), "type": "chat_template", "field_messages": "messages",
        }],
        "chat_template": "tokenizer_default", "special_tokens": {"pad_token": "<unk>"},
    }  # fmt: skip
    return [str(programs / "axolotl"), "train", _written(settings, run), "--launcher", "python"]


def fastchat(job: Job, run: Path, programs: Path) -> Sequence[str]:
    settings = of_transformers(run) | {
        "model_name_or_path": str(job.model_with_slow_tokenizer), "data_path": str(job.sharegpt),
        "model_max_length": CONTEXT, "per_device_train_batch_size": 2,
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    return [str(programs / "python"), "-m", "fastchat.train.train", *arguments]


def torchtune(job: Job, run: Path, programs: Path) -> Sequence[str]:
    settings = {
        "output_dir": str(run / "out"),
        "tokenizer": {
            "_component_": "torchtune.models.llama2.llama2_tokenizer",
            "path": str(job.model_with_slow_tokenizer / "tokenizer.model"),
            "max_seq_len": CONTEXT,
            "prompt_template": {
                "system": ["", " "], "user": ["USER: ", " ASSISTANT: "], "assistant": ["", ""],
            },
        },
        "dataset": {
            "_component_": "torchtune.datasets.chat_dataset", "packed": True, "source": "json",
            "data_files": str(job.sharegpt), "conversation_column": "conversations",
            "conversation_style": "sharegpt", "new_system_prompt": SYSTEM,
        },
        "seed": 0, "shuffle": True,
        "model": {
            "_component_": "torchtune.models.llama2.llama2", "vocab_size": VOCABULARY,
            "num_layers": LAYERS, "num_heads": HEADS, "num_kv_heads": HEADS, "embed_dim": HIDDEN,
            "intermediate_dim": MLP, "max_seq_len": CONTEXT, "norm_eps": 1e-6,
        },
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(job.model), "checkpoint_files": ["model.safetensors"],
            "output_dir": "${output_dir}", "model_type": "LLAMA2",
        },
        "resume_from_checkpoint": False, "batch_size": 1, "epochs": 1,
        "gradient_accumulation_steps": 1, "max_steps_per_epoch": None, "clip_grad_norm": 1.0,
        "optimizer": {"_component_": "torch.optim.AdamW", "lr": RATE, "fused": True},
        "optimizer_in_bwd": False,
        "lr_scheduler": {"_component_": "torchtune_marks.marked_schedule"},
        "loss": {"_component_": "torchtune_marks.CEWithChunkedOutputLoss"},
        "compile": False, "device": "cpu", "dtype": "fp32",
        "enable_activation_checkpointing": False, "enable_activation_offloading": False,
        "metric_logger": {
            "_component_": "torchtune_marks.MarkedLogger", "log_dir": "${output_dir}/logs",
        },
        "log_every_n_steps": 1, "log_peak_memory_stats": False,
    }  # fmt: skip
    recipe = ["run", "full_finetune_single_device", "--config", _written(settings, run)]
    return [str(programs / "tune"), *recipe]


def _written(settings: dict[str, Any], run: Path) -> str:
    path = run / "settings.yaml"
    path.write_text(json.dumps(settings))  # which is YAML as well
    return str(path)


OURS = Program("sft_app", "sft_app", None, sft_app())
WITHOUT_VERIFYING = Program(
    "sft_app, evaluation.verify_saved=false",
    "sft_app", None, sft_app("evaluation.verify_saved=false"),
)  # fmt: skip
PEERS = (
    Program("LLaMA-Factory, neat packing", "llamafactory", "llamafactory", llama_factory),
    Program("torchtune, packed", "torchtune", "torchtune", torchtune),
    Program("TRL, packing bfd", "trl", "trl", trl),
    Program("axolotl, sample packing", "axolotl", "axolotl", axolotl),
    # Written for FSDP, it has saved the model when it ends with 1.
    Program("FastChat, padded", "fschat", "fastchat", fastchat, ends_with=(0, 1)),
)
