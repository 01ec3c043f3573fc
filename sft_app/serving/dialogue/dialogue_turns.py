"""What has been said, and how much of the context it takes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase


class NotRendered(ValueError):
    """Says that the chat template refuses a conversation."""


@dataclass
class DialogueTurns:
    """Holds the turns of a chat, as chat templates and training data have them."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def set_system(self, text: str) -> None:
        """Put a system turn first, in place of the one that was there; none for empty text."""
        rest = [turn for turn in self.messages if turn["role"] != "system"]
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def add(self, role: str, content: str) -> None:
        """Append a turn of `user` or `assistant`."""
        self.messages.append({"role": role, "content": content})

    def reset(self) -> None:
        """Forget all turns but the system's."""
        self.messages = [turn for turn in self.messages if turn["role"] == "system"]

    def forget_oldest(self) -> bool:
        """Drop the oldest question with its answer; False where only the newest one is left."""
        places = [i for i, turn in enumerate(self.messages) if turn["role"] == "user"]
        if len(places) < 2:
            return False
        del self.messages[places[0] : places[1]]
        return True

    def save(self, path: Path) -> None:
        """Append the conversation to a JSON Lines file, in the format that training reads."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")

    def load(self, path: Path) -> None:
        """Take the last conversation of a file; raises ValueError for what is none."""
        try:
            text = path.read_text(encoding="utf-8")
            # Not splitlines: a text may hold what Unicode takes for the end of a line.
            lines = [line for line in text.split("\n") if line.strip()]
            record = json.loads(lines[-1])
            turns = [dict(turn) for turn in record["messages"]]
            told = [turn[key] for turn in turns for key in ("role", "content")]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no conversation") from error
        if not all(isinstance(text, str) for text in told):
            raise ValueError(f"{path} holds a turn without text, which is no conversation here")
        if record.get("tools"):
            raise ValueError(f"{path} holds a conversation with tools, and here are none")
        self.messages = turns


def prompt_ids(conversation: DialogueTurns, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of the prompt for the next answer.

    Raises NotRendered where the chat template refuses the conversation: a system turn, say.
    """
    if tokenizer.chat_template is None:
        text = "\n".join(turn["content"] for turn in conversation.messages)
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids
    try:
        rendered: Any = tokenizer.apply_chat_template(
            conversation.messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # templates raise whatever they like
        why = " ".join(str(error).split()) or type(error).__name__
        raise NotRendered(f"the chat template refuses this conversation: {why}") from error
    found: list[int] = tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
    return found
