"""What every format is normalised to."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Message:
    """Hold one turn, with roles that chat templates know."""

    role: str
    """system, user, assistant or tool."""
    content: str
    weight: float = 1.0
    """Loss weight of an assistant message: 0 = no labels, 1 = as usual."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the chat template may read: tool_calls, tool_call_id, name, reasoning_content."""
    earlier: tuple[tuple[int, float], ...] = ()
    """Of answers that were joined: characters of `content` up to which each but the last one goes,
    and its weight. `weight` is that of the rest, with the end of the turn."""

    @property
    def is_supervised(self) -> bool:
        """Tell whether some part of the message carries labels."""
        return self.role == "assistant" and (
            self.weight > 0 or any(weight > 0 for _, weight in self.earlier)
        )

    def as_template_input(self, *, text_arguments: bool = False) -> dict[str, Any]:
        """Return the mapping that chat templates are written for.

        Reasoning stands under each name that templates use for it. `text_arguments`: those of
        calls are JSON text, as OpenAI's API has them, and not objects.
        """
        named: dict[str, Any] = {}
        if reasoning := self.extra.get("reasoning_content"):
            named = {"reasoning": reasoning, "thinking": reasoning, "tool_plan": reasoning}
        named |= self.extra
        if text_arguments and (calls := self.extra.get("tool_calls")):
            named["tool_calls"] = [_with_text_arguments(call) for call in calls]
        return {"role": self.role, "content": self.content, **named}


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": arguments}}


@dataclass(slots=True)
class Conversation:
    """Hold the turns of a chat, in order."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    """Function schemas that the template may describe to the model."""


@dataclass(slots=True)
class Passage:
    """Hold text outside any chat template: a document, or a prompt and its completion."""

    prompt: str
    """Read, never predicted; empty for a document."""
    completion: str
    """Predicted, with the end-of-sequence token after it."""
    weight: float = 1.0


def content_key(item: Conversation | Passage) -> int:
    """Return 64 bits that depend on nothing but the content.

    Choosing examples by this key (see `train_eval_split`) keeps exact duplicates together, so that
    none of them is held out while its twin is trained on.
    """
    if isinstance(item, Passage):
        parts: list[Any] = [item.prompt, item.completion]
    else:
        parts = [[m.role, m.content, m.extra] for m in item.messages]
        if item.tools:
            parts.append(item.tools)
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
