"""TokenizerPlan: what was decided about a tokenizer, and why."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TokenizerPlan:
    """What a tokenizer will be like. Print it, or put `as_dict()` into plan.json."""

    name_or_path: str
    backend: str
    """What segments the text, and where its rules came from."""
    vocab_size: int
    """Ids that the tokenizer can produce, added tokens included."""
    model_vocab_size: int | None
    """Rows of the model's embedding before anything is done."""
    model_max_length: int
    own_max_length: int
    """What the checkpoint's tokenizer said before."""
    padding_side: str
    pad_token: str
    pad_token_id: int
    pad_reason: str
    added_tokens: tuple[str, ...]
    """Tokens that the checkpoint's tokenizer did not have."""
    added_token_ids: tuple[int, ...]
    bos_token_id: int | None
    eos_token_id: int | None
    stop_token_ids: tuple[int, ...]
    """Ids that end an answer: EOS, and the chat template's end of a turn."""
    chat_template: str
    """Where it came from; `none` when there is none."""
    adds_bos: bool
    """Whether plain text is encoded with BOS in front."""
    saved_chat_template: str | dict[str, str] | None = None
    """The template that is saved with the model, where it differs from the one that is trained; by
    name, where there are several."""
    warnings: tuple[str, ...] = ()

    @property
    def new_row_ids(self) -> tuple[int, ...]:
        """Return the ids whose rows no checkpoint has trained.

        Those of added tokens, and those of the tokenizer's own that the model has no row for. An
        adapter must train them (peft's trainable_token_indices): nothing else would move them.
        """
        rows = self.vocab_size if self.model_vocab_size is None else self.model_vocab_size
        return tuple(sorted({*self.added_token_ids, *range(rows, self.vocab_size)}))

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        return {
            **asdict(self),
            "added_tokens": list(self.added_tokens),
            "added_token_ids": list(self.added_token_ids),
            "stop_token_ids": list(self.stop_token_ids),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        """Return the lines that sft-plan and the log show."""
        lines = [
            ("tokenizer", f"{self.name_or_path}: {self.backend}"),
            (
                "vocabulary",
                f"{self.vocab_size:,} ids, model has {self.model_vocab_size:,} rows"
                if self.model_vocab_size
                else f"{self.vocab_size:,} ids",
            ),
            ("max length", f"{self.model_max_length:,} tokens, padded on the {self.padding_side}"),
            ("pad token", f"{self.pad_token!r} ({self.pad_token_id}): {self.pad_reason}"),
            ("end token", f"id {self.eos_token_id}, answers end with {list(self.stop_token_ids)}"),
            ("begin token", f"id {self.bos_token_id}" + (", added" if self.adds_bos else "")),
            ("chat template", self.chat_template),
        ]
        if self.added_tokens:
            lines.append(("new tokens", ", ".join(map(repr, self.added_tokens))))
        lines += [("WARNING", warning) for warning in self.warnings]
        return "\n".join(f"{name:<16}{value}" for name, value in lines)
