"""What a saved model is to be found as, written by the process that trained it.

`verification/` in a run's directory: expected.json, and probe.safetensors with the token ids of a
probe and the logits that the model in memory gave for it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sft_app.common.permissions import as_umask_says
from sft_app.compat.model_internals import forget_longer_inputs
from sft_app.loader.tokenizer.template_variables import FIXED_DATE
from sft_app.records.run_files import write_atomically

EXPECTED, PROBE = "expected.json", "probe.safetensors"
PROBE_TOKENS = 48
SPECIAL_IDS = ("pad_token_id", "eos_token_id", "bos_token_id")
OF_THE_WRITER = ("transformers_version", "use_cache")
"""Of a generation configuration: who wrote it, and what is looked at by itself."""
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Two  spaces,   three; a\ttab\nand a newline.\n\n",
    "def f(x):\n    return x ** 2  # 3.14159\n",
    "Größe, naïve, 東京, Ελλάδα, 🙂.",
)
"""Real text, with what tokenizers stumble over: runs of spaces, code, other scripts."""
TURNS = (
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "Another?"},
)


@torch.no_grad()
def probe_logits(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probe ids [1, T] and the model's logits [1, T, V] in float32, both on the CPU.

    Every rank of a sharded model calls it.
    """
    ids = tokenizer(" ".join(TEXTS), add_special_tokens=False)["input_ids"][:PROBE_TOKENS]
    input_ids = torch.tensor([ids])
    was_training = model.training
    model.eval()
    forget_longer_inputs(model)
    try:
        logits = model(input_ids=input_ids.to(device), use_cache=False).logits
    finally:
        model.train(was_training)
    return input_ids, logits.float().cpu()


def write_expectations(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probe: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    serving_length: int,
    saved_template: str | dict[str, str] | None,
    computed_in: str,
) -> None:
    """Write what a fresh process is to find, on rank 0; without a `probe` logits are not compared.

    `serving_length` and `saved_template`: the tokenizer's model_max_length and chat template in
    what was saved; `computed_in`: the dtype of the matrix products behind the logits.
    """
    folder.mkdir(exist_ok=True)
    if probe is not None:
        input_ids, logits = probe
        save_file({"input_ids": input_ids, "logits": logits}, folder / PROBE)
        as_umask_says(folder / PROBE)
    text = model.config.get_text_config(decoder=True)
    expected: dict[str, Any] = {
        "computed_in": computed_in,
        "rope_parameters": rope_facts(text),
        "max_position_embeddings": getattr(text, "max_position_embeddings", None),
        "model_max_length": serving_length,
        **model_facts(model),
    }
    with _with_template(tokenizer, saved_template):
        expected |= tokenizer_facts(tokenizer)
    write_atomically(folder / EXPECTED, json.dumps(expected, indent=2) + "\n")


def rope_facts(text: PretrainedConfig) -> dict[str, Any] | None:
    """Return what the rotary embedding of a text model is given; None where it has none."""
    parameters = getattr(text, "rope_parameters", None)
    return None if parameters is None else without_legacy_type(parameters)


def without_legacy_type(parameters: dict[str, Any]) -> dict[str, Any]:
    """Drop `type` wherever `rope_type` stands beside it, also inside the sets of layer types.

    What is saved has both, for older readers, and transformers takes over both: a second name of
    the method, and no other rotation.
    """
    return {
        key: without_legacy_type(value) if isinstance(value, dict) else value
        for key, value in parameters.items()
        if key != "type" or "rope_type" not in parameters
    }


def model_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Return what a model's configurations say about special tokens and about generating."""
    text, generation = model.config.get_text_config(decoder=True), model.generation_config
    stated = {} if generation is None else generation.to_diff_dict()
    return {
        "special_ids": {name: getattr(text, name, None) for name in SPECIAL_IDS},
        "generation": {
            key: value
            for key, value in stated.items()
            if key not in OF_THE_WRITER and not key.startswith("_")
        },
    }


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what two tokenizers that are the same have in common.

    Conversations are rendered as of a fixed day, for templates that ask for the date.
    """
    turns = None
    if tokenizer.chat_template is not None:
        try:
            turns = tokenizer.apply_chat_template(
                list(TURNS),
                tokenize=False,
                add_generation_prompt=True,
                strftime_now=FIXED_DATE.strftime,
            )
        except Exception as error:  # templates raise whatever they like
            turns = f"fails: {type(error).__name__}"
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "text_ids": [tokenizer(text)["input_ids"] for text in TEXTS],
        "chat_template": tokenizer.chat_template,
        "chat": turns,
    }


@contextmanager
def _with_template(
    tokenizer: PreTrainedTokenizerBase, template: str | dict[str, str] | None
) -> Iterator[None]:
    before = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        yield
    finally:
        tokenizer.chat_template = before
