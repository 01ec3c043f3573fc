"""What to load: the checkpoint and its tokenizer."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING


class Dtype(StrEnum):
    """Parameter dtype."""

    # Hydra matches enums by NAME, so names equal values.
    auto = "auto"
    """float32; below an adapter bfloat16 where the GPU has it."""
    float32 = "float32"
    """4 bytes a parameter."""
    bfloat16 = "bfloat16"
    """2 bytes a parameter, with the range of float32."""
    float16 = "float16"
    """2 bytes a parameter, with a small range."""


@dataclass(kw_only=True)
class ModelConfig:
    """Name the checkpoint, and say how it is loaded."""

    name_or_path: str = MISSING
    """A local directory, a hub id (`org/name`), a `.gguf` file, or `pkg://package/file` for data
    that an installed Python package carries."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    cache_dir: str | None = None
    """Where hub downloads and converted GGUF files are kept (null: the libraries' own caches)."""
    trust_remote_code: bool = False
    """Run Python code that a checkpoint carries. Off: a model that needs it is refused."""
    dtype: Dtype = Dtype.auto
    """Dtype of the parameters while they are trained. auto: float32, computed in bfloat16 where the
    GPU has it (trainer.bf16); below an adapter bfloat16 there. 16 bits for parameters that are all
    trained take half the memory, and lose small updates. With auto, what is saved has the
    checkpoint's own dtype."""
    attn_implementation: str = "auto"
    """auto, or a name that transformers knows: eager, sdpa, flash_attention_2, flex_attention..."""
    gguf_file: str | None = None
    """The GGUF file inside `name_or_path`, when that is a directory or a hub id."""
    original_context_length: int | None = None
    """The model's pre-training context in tokens (null: read from its configuration)."""
    allow_pickle: bool = False
    """Accept `pytorch_model.bin` checkpoints: unpickling can run code."""


class PaddingSide(StrEnum):
    """On which side short rows are filled up."""

    right = "right"
    """After the text."""
    left = "left"
    """Before the text."""


@dataclass(kw_only=True)
class TokenizerConfig:
    """Name the tokenizer, and say how text becomes tokens and conversations become text."""

    name_or_path: str | None = None
    """A directory or hub id; null: the model's own."""
    padding_side: PaddingSide = PaddingSide.right
    """On which side short rows are filled up; packing takes right."""
    use_fast: bool = True
    """The fast tokenizer; false: the sentencepiece library's own segmentation."""
    legacy: bool | None = None
    """sentencepiece models: the `legacy` flag of transformers (null: what the checkpoint says)."""
    pad_token: str = "auto"
    """What fills short rows: auto, unk, eos, reserved, new, or a literal token. auto: the model's
    own where it cannot hide the end token, else a reserved one, else a new one."""
    model_max_length: int = MISSING
    """Longest input, in tokens; follows `context_length`."""
    chat_template: str | None = None
    """How a conversation becomes text: a name (vicuna, chatml, llama3, ...) or a Jinja file; null:
    the model's own."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template (enable_thinking, date_string, reasoning_effort, ...), written
    into it for training and kept as defaults in what is saved. Add one with
    +tokenizer.chat_template_kwargs.enable_thinking=false"""
    add_tokens: list[str] = field(default_factory=list)
    """Extra tokens, each one id; their embedding rows start at the mean of the others."""
