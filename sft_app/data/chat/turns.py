"""Lists of turns to messages: who speaks, what is said, and what of it is supervised."""

from collections import Counter
from typing import Any

from sft_app.data.chat.conversation import Message
from sft_app.data.parse.field_names import CALLERS, ROLES, FieldNames, NotThisFormat
from sft_app.data.parse.tool_calls import parse_json, read_calls, tool_call

SPEAKER_KEYS = ("role", "from", "speaker")
TEXT_KEYS = ("content", "value", "text", "message")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "tool_plan")
"""Names of one thing: what the model thinks before it answers, or (Cohere's) before it calls."""

_TEMPLATE_EXTRAS = ("tool_call_id", "name")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_REFUSAL = "refusal"
"""OpenAI's: what the model says where it declines, beside a content that is null, or as a part."""
_TEXT_PARTS = (None, "text", "input_text", "output_text", _REFUSAL)
"""Kinds of parts, `type`, that are text; what has no kind and a text is text as well."""
_THOUGHT_PARTS = ("thinking", "reasoning")
"""Kinds of parts that are reasoning, under a key of that name or under `text`."""
_SWITCHES = ("train", "training", "trainable", "loss", "loss_mask")
"""Whether a turn is supervised: true or false, 1 or 0. `weight` says how much."""
_MASKED = "masked"
"""torchtune's: true where it is not."""
_DETAILS = ("train_detail", "training_detail")
"""axolotl's: which places of a text are supervised."""
WEIGHT_KEYS = ("weight", *_SWITCHES, _MASKED, *_DETAILS)

_NOT_READ = {
    "tool_responses": "give each result a turn of its own, with the role tool",
    "function_calls": "give the calls under tool_calls, with name and arguments",
    "functions": "give the schemas beside the turns, under tools",
    "tools": "give the schemas beside the turns, under tools",
    "reasoning_details": "give its text under reasoning_content",
}
"""Keys of turns that say what would be missing from the conversation, and the way out."""

_CHANNELS = ("final", "commentary")
"""Of OpenAI's harmony format: those whose texts are said to the user."""
_RECIPIENTS = ("all", "user", "assistant")


def read_turns(
    turns: list[Any], names: FieldNames, tools: list[dict[str, Any]] | None
) -> list[Message]:
    """Return the messages of a conversation.

    All turns hold speaker and text under the same keys, those that most of them have. Raises
    NotThisFormat that names the turn and the key.
    """
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise NotThisFormat(
                f"expected turns with speaker and text, found turn {number} to be {_kind(turn)}"
            )
    renamed = [names.rename(turn) for turn in turns]
    speaker_key = _common_key(renamed, SPEAKER_KEYS)
    text_key = _common_key(renamed, TEXT_KEYS)
    return [
        _message(turn, f"turn {number}", speaker_key, text_key, names, tools)
        for number, turn in enumerate(renamed, start=1)
    ]


def in_turn(turns: list[Any]) -> list[Any]:
    """Return texts without speakers, or pairs of them, as what user and assistant say in turn.

    Only where the user has said which column holds the turns: nothing in them says who speaks.
    """
    flat = [text for turn in turns for text in (turn if isinstance(turn, list) else [turn])]
    if not flat or not all(isinstance(text, str) for text in flat):
        return turns
    return [
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(flat)
    ]


def by_speaker(turns: list[Any]) -> list[Any]:
    """Return turns that hold texts under the speakers' names, `{human: ..., assistant: ...}`, as
    one turn for each.

    They are said in the order of the keys. Raises NotThisFormat where that has an answer before its
    question: whoever sorts keys by name gives each answer to the question of the turn before.
    """
    split: list[Any] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or not turn or not all(map(_is_speaker, turn)):
            return turns
        said = {name: text for name, text in turn.items() if text is not None}
        if not all(isinstance(text, str) for text in said.values()):
            return turns
        roles = [ROLES[name.strip().lower()] for name in said]
        if "assistant" in roles[: _last(roles, "user")]:
            raise NotThisFormat(
                f"expected a question before its answer in turn {number}, found {', '.join(said)}: "
                "keys have no order of their own, so give each text a turn with role and content"
            )
        split += [{"role": name, "content": text} for name, text in said.items()]
    return split


def _last(roles: list[str], role: str) -> int:
    """The place of the last one, 0 where there is none."""
    return max((place for place, found in enumerate(roles) if found == role), default=0)


def _is_speaker(name: Any) -> bool:
    return isinstance(name, str) and name.strip().lower() in ROLES


def refuse_media(holder: dict[str, Any], where: str) -> None:
    """Raise NotThisFormat for images and the like, which no text stands for."""
    for key in _MEDIA:
        if holder.get(key):
            raise NotThisFormat(f"{where} has {key}, and only text can be trained on", "media")


def _kind(value: Any) -> str:
    kinds = {str: "a bare text", list: "a list", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _common_key(turns: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    counts = Counter(key for turn in turns for key in keys if turn.get(key) is not None)
    return max(keys, key=lambda key: (counts[key], -keys.index(key)))


def _message(
    turn: dict[str, Any],
    where: str,
    speaker_key: str,
    text_key: str,
    names: FieldNames,
    tools: list[dict[str, Any]] | None,
) -> Message:
    refuse_media(turn, where)
    _refuse_unread(turn, where)
    speaker = turn.get(speaker_key)
    if not isinstance(speaker, str):
        raise NotThisFormat(
            f"expected turns with text under {speaker_key} and {text_key}; {where} names no "
            f"speaker under {speaker_key} (it has {', '.join(map(str, turn))})"
        )
    calls = read_calls(turn, where)
    if "content" not in names.columns:
        _refuse_two_texts(turn, where)
    read = {speaker_key, text_key, *_READ}
    names.pass_over({k: v for k, v in turn.items() if v != turn.get(text_key)}, read, "turns.")
    turn = _without_thoughts(_with_refusal(turn, text_key, where), text_key)
    reasoning = _reasoning(turn, where)
    content = _text(turn, where, text_key, has_other=bool(calls or reasoning))
    if speaker.strip().lower() in CALLERS and not calls:
        calls = parse_json(content, f"under {text_key} of {where}")
        content, calls = "", calls if isinstance(calls, list) else [calls]
    extra: dict[str, Any] = {k: turn[k] for k in _TEMPLATE_EXTRAS if turn.get(k) is not None}
    if reasoning:
        extra["reasoning_content"] = reasoning
    if calls:
        extra["tool_calls"] = [tool_call(call, tools, where) for call in calls]
    return Message(names.role(speaker, where), content, read_weight(turn, where), extra)


_READ = (
    *REASONING_KEYS,
    *_TEMPLATE_EXTRAS,
    *WEIGHT_KEYS,
    *("tool_calls", "function_call", _REFUSAL, "channel", "recipient"),
)
"""Keys of turns that are read wherever they stand."""


def _refuse_unread(turn: dict[str, Any], where: str) -> None:
    """Raise NotThisFormat for what would be missing, or be learned as something else."""
    for key, way_out in _NOT_READ.items():
        if turn.get(key) and not any(turn.get(k) for k in REASONING_KEYS if "reason" in key):
            raise NotThisFormat(f"{where} has {key}, which is not read in a turn: {way_out}")
    channel, recipient = turn.get("channel"), turn.get("recipient")
    if isinstance(recipient, str) and recipient.strip() and recipient not in _RECIPIENTS:
        raise NotThisFormat(
            f"{where} has the recipient {recipient!r:.80}: give a call to it under tool_calls, "
            "with name and arguments"
        )
    if isinstance(channel, str) and channel.strip() and channel not in _CHANNELS:
        raise NotThisFormat(
            f"{where} is of the channel {channel!r:.80}: give what was thought under "
            "reasoning_content of the answer behind it"
        )


def _with_refusal(turn: dict[str, Any], text_key: str, where: str) -> dict[str, Any]:
    """A turn whose text is what stands under refusal, where it has no other."""
    refusal, text = turn.get(_REFUSAL), turn.get(text_key)
    if not isinstance(refusal, str) or not refusal.strip() or refusal == text:
        return turn
    if text:
        raise NotThisFormat(f"{where} has a text under {text_key} and another under {_REFUSAL}")
    return {**turn, text_key: refusal}


def _refuse_two_texts(turn: dict[str, Any], where: str) -> None:
    """Raise NotThisFormat for a turn with one text for OpenAI and one for ShareGPT."""
    texts = {k: turn[k].strip() for k in ("content", "value") if isinstance(turn.get(k), str)}
    if len({text for text in texts.values() if text}) > 1:
        raise NotThisFormat(
            f"{where} has different texts under content and value: say which with "
            "'data.columns={content: content}'"
        )


def _text(turn: dict[str, Any], where: str, key: str, has_other: bool) -> str:
    """What is said; nothing where there are calls or reasoning instead, or where null says so."""
    if turn.get(key) is not None:
        return plain_text(turn[key], f"{key} of {where}")
    others = [k for k in TEXT_KEYS if isinstance(turn.get(k), str)]
    if others:
        raise NotThisFormat(
            f"{where} has its text under {others[0]}, where the other turns have {key}",
            "missing_text",
        )
    if key not in turn and not has_other:
        raise NotThisFormat(
            f"{where} has no text under {key} (it has {', '.join(map(str, turn))})", "missing_text"
        )
    return ""


def plain_text(value: Any, place: str) -> str:
    """Return a text, or the text of OpenAI's list of parts; raise NotThisFormat for others."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise NotThisFormat(f"expected text under {place}, found {type(value).__name__}")
    if len(value) == 1 and isinstance(value[0], str):
        return value[0]
    others = [_kind_of_part(part) for part in value if not _is_text_part(part)]
    if others:
        is_media = any(name.rstrip("s") in other for other in others for name in (*_MEDIA, "file"))
        reason = "media" if is_media else "not_this_format"
        raise NotThisFormat(f"expected text under {place}, found a list with {others[0]}", reason)
    return "".join(_text_of_part(part) for part in value)


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type") in _TEXT_PARTS
        and isinstance(_text_of_part(part), str)
    )


def _text_of_part(part: dict[str, Any]) -> Any:
    return part.get(_REFUSAL if part.get("type") == _REFUSAL else "text")


def _kind_of_part(part: Any) -> str:
    if not isinstance(part, dict):
        return _kind(part)
    return f"a part {part.get('type') or ', '.join(map(str, part))}"


def _without_thoughts(turn: dict[str, Any], text_key: str) -> dict[str, Any]:
    """A turn whose list of parts has thoughts, with these as its reasoning."""
    parts = turn.get(text_key)
    thoughts: list[str] = []
    others: list[Any] = []
    for part in parts if isinstance(parts, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind, part.get("text")) if kind in _THOUGHT_PARTS else None
        if isinstance(text, str):
            thoughts.append(text)
        else:
            others.append(part)
    if not thoughts or any(turn.get(key) for key in REASONING_KEYS):
        return turn
    return {**turn, text_key: others or None, "reasoning_content": "\n\n".join(thoughts)}


def _reasoning(turn: dict[str, Any], where: str) -> str:
    """What was thought, under any of its names; true or false under one is a switch, and none."""
    found = {
        text
        for key in REASONING_KEYS
        if (value := turn.get(key)) and not isinstance(value, bool)
        if (text := plain_text(value, f"{key} of {where}")).strip()
    }
    if len(found) > 1:
        raise NotThisFormat(f"{where} has two different texts of reasoning: keep one")
    return found.pop() if found else ""


def read_weight(holder: dict[str, Any], where: str) -> float:
    """Return the loss weight of a turn or record: 0 where any of its keys switches it off."""
    for key in _DETAILS:
        if holder.get(key):
            raise NotThisFormat(
                f"{key} of {where} supervises parts of a text, which is not read: give what is "
                "not to be learned a turn of its own, with weight 0, or leave the key out"
            )
    weight = 1.0
    for key in ("weight", *_SWITCHES, _MASKED):
        value = holder.get(key)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            value = value.strip().lower() == "true"
        elif isinstance(value, str) and value.strip():
            value = _number(value, f"{key} of {where}")
        if value is None or value == "":
            continue
        if not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise NotThisFormat(
                f"expected a weight of 0 or more under {key} of {where}, found {value!r:.80}"
            )
        if key == "weight":
            weight *= float(value)
        elif bool(value) is (key == _MASKED):  # switched off
            weight = 0.0
    return weight


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise NotThisFormat(f"expected a number under {place}, found {text[:80]!r}") from None
