"""Which conversations, and how they become batches."""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from omegaconf import MISSING

COLUMN_NAMES = (
    "messages",
    "role",
    "content",
    "system",
    "tools",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "text",
    "weight",
    "reasoning_content",
    "tool_calls",
)
"""What `data.columns` may name."""

ROLE_NAMES = ("system", "user", "assistant", "tool")
"""What `data.roles` may map speakers to."""


class DataFormat(StrEnum):
    """How a record says who said what."""

    auto = "auto"
    """What the first readable record of each file looks like."""
    sharegpt = "sharegpt"
    """`conversations`: a list of {from, value}."""
    messages = "messages"
    """`messages`: a list of {role, content}, as in the OpenAI interface."""
    alpaca = "alpaca"
    """`instruction`, `input`, `output`."""
    prompt_completion = "prompt_completion"
    """`prompt`, `completion`."""
    text = "text"
    """`text`: plain text, all of it learned."""


class Overlong(Enum):
    """What happens to an example longer than `context_length`."""

    # Not a StrEnum: a member `split` would hide the method of str.
    drop = "drop"
    """Leave the whole conversation out."""
    truncate = "truncate"
    """Keep the beginning, up to the last answer (or its part) that fits."""
    split = "split"
    """Cut at questions; each chunk begins with the system prompt, and no label is lost."""


class OverlongQuestion(StrEnum):
    """What becomes of a question that leaves too little of a row to its answer."""

    keep_ends = "keep_ends"
    """Its middle is cut out; the answer keeps all its labels."""
    drop = "drop"
    """Question and answer are left out, and counted."""


class SpecialTokensInText(StrEnum):
    """How text of a message is read that looks like a special token of the tokenizer."""

    text = "text"
    """As the text that it is: only the chat template writes special tokens."""
    tokens = "tokens"
    """As that token, as `apply_chat_template(tokenize=True)` reads it."""


class OnBadRecord(StrEnum):
    """What happens at a record that cannot be used as it is."""

    error = "error"
    """End with its file, its line and what is wrong."""
    skip = "skip"
    """Leave it out, and count it by reason."""


class Packing(StrEnum):
    """Whether several examples share a row of `context_length` tokens."""

    auto = "auto"
    """best_fit where the loaded model keeps documents apart, which is verified; else none."""
    none = "none"
    """One example a row, in batches of similar length."""
    best_fit = "best_fit"
    """As many as fit a row (best-fit decreasing); none of them sees another."""


class PositionSkipping(StrEnum):
    """Whether positions of a document are left out, as if text stood between its two chunks."""

    none = "none"
    """Positions count the tokens."""
    pose = "pose"
    """A random stretch is left out, so that positions reach `position_target` (PoSE,
    arXiv:2309.10400)."""


class TrainOn(StrEnum):
    """Which assistant turns carry labels."""

    all_turns = "all_turns"
    """Every answer of a conversation."""
    last_turn = "last_turn"
    """The last answer only."""


@dataclass(kw_only=True)
class DataConfig:
    """Choose conversations, and how they become batches."""

    train: Any = MISSING
    """Conversations to train on. A file, folder, glob, hub dataset id (`org/name` with
    `:split`, `org/name/config:split`), `pkg://package/file`, or a list of
    `{path: ..., weight: ...}`: each conversation is used `weight` times an epoch (2 =
    twice, 0.5 = a half chosen by seed). Files: .json, .jsonl, .csv, .tsv, .txt, also .gz, .bz2,
    .xz or .zst; .parquet, .arrow, and folders that `save_to_disk` of datasets wrote."""
    eval: Any = None
    """The same for held-out data; null: `eval_examples` conversations are taken out of `train` by
    `split_seed`."""
    eval_examples: int = 200
    """Held-out conversations when `eval` is null, but no more than a tenth of all; 0: no held-out
    set."""
    format: DataFormat = DataFormat.auto
    """How a record says who said what; auto: what the first readable record of each file looks
    like."""
    columns: Any = None
    """Under which keys records or turns hold what: `{instruction: question, output: best_answer}`,
    `{messages: dialogue, role: who, content: said}`. What is not named is found by itself."""
    roles: Any = None
    """Names of speakers beyond the usual ones, and their roles: `{student: user, tutor:
    assistant}`."""
    special_tokens_in_text: SpecialTokensInText = SpecialTokensInText.text
    """What a special token that a message spells out, such as <|im_end|>, is to the model."""
    overlong: Overlong = Overlong.split
    """What happens to an example longer than `context_length`; always counted."""
    overlong_question: OverlongQuestion = OverlongQuestion.keep_ends
    """What `overlong=split` does with a question that leaves its answer no room."""
    on_bad_record: OnBadRecord = OnBadRecord.error
    """What happens at a record that cannot be used as it is."""
    packing: Packing = Packing.auto
    """Whether several examples share a row of `context_length` tokens."""
    position_skipping: PositionSkipping = PositionSkipping.none
    """Whether rows of `context_length` tokens are trained at the positions of a longer context."""
    position_target: int | None = None
    """position_skipping=pose: tokens of the context that positions reach, and for which RoPE is
    extended; more than `context_length`."""
    train_on: TrainOn = TrainOn.all_turns
    """Which assistant turns carry labels."""
    max_examples: int | None = None
    """Use at most this many training conversations (chosen by `split_seed`)."""
    split_seed: int = 42
    """Chooses the held-out conversations, and those that `max_examples` keeps. Apart from `seed`:
    runs that differ in their seed are evaluated on the same conversations."""
    num_proc: int | None = None
    """Tokenising processes; null: one per core."""
    cache_dir: str | None = None
    """Where tokenised data is kept; null: the user's cache directory."""
    preview: int = 0
    """Examples that `sft-plan` shows label by label."""
