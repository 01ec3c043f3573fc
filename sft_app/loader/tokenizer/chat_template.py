"""Chat templates: the tokenizer's own, one of the named formats, or a file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.common.resource_limits import chat_template_limits
from sft_app.common.thought_marks import without_empty_thought
from sft_app.loader.tokenizer.template_variables import fix_variables

_DIRECTORY = Path(__file__).with_name("chat_templates")

_MARKERS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}
"""Markers that a format expects to be one token each."""

_ANSWER = "\ue000\ue001"
"""Private-use characters: in no template."""

_PROBE = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@dataclass(frozen=True, kw_only=True)
class ChatTemplatePlan:
    """Where the template came from, and what it ends answers with."""

    source: str
    saved: str | dict[str, str] | None
    """The template that is saved with the model: variables open, dates today's. By name, where the
    tokenizer has further ones."""
    stop_token_ids: tuple[int, ...]
    """Ids that end an answer: the end token, and the template's own end of a turn."""
    warnings: tuple[str, ...]


def template_names() -> list[str]:
    """Return the names that `tokenizer.chat_template` takes."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.jinja"))


def set_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    wanted: str | None,
    *,
    adds_bos: bool,
    kwargs: dict[str, Any] | None = None,
) -> ChatTemplatePlan:
    """Give `tokenizer` the template that `tokenizer.chat_template` names (null: its own).

    A named format begins with BOS exactly if the tokenizer puts BOS in front of plain text, and so
    that the text behind it is tokenised as a beginning. `kwargs`: tokenizer.chat_template_kwargs.

    Raises ConfigError for a name that is neither a format nor a file.
    """
    source = "the tokenizer's own"
    further, warnings = _further_templates(tokenizer, chosen=wanted is not None)
    if wanted is not None and wanted in template_names():
        text = (_DIRECTORY / f"{wanted}.jinja").read_text(encoding="utf-8")
        tokenizer.chat_template = text
        if adds_bos:
            tokenizer.chat_template = _beginning(tokenizer) + text
        source = f"the {wanted} format"
    elif wanted is not None:
        path = Path(wanted).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"tokenizer.chat_template: {wanted!r} is neither a file nor one of "
                f"{', '.join(template_names())}; give one of these, or a Jinja file."
            )
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        source = str(path)
    if not tokenizer.chat_template:
        return ChatTemplatePlan(
            source="none", saved=None, stop_token_ids=_end(tokenizer), warnings=()
        )
    if not isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = tokenizer.chat_template["default"]
    texts = fix_variables(tokenizer.chat_template, kwargs or {})
    tokenizer.chat_template = texts.training
    if texts.fixed:
        source += f"; {', '.join(texts.fixed)}"
    with chat_template_limits():
        plan = _inspect(tokenizer, source, wanted, adds_bos=adds_bos)
    saved = {"default": texts.saved, **further} if further else texts.saved
    return replace(plan, saved=saved, warnings=warnings + texts.warnings + plan.warnings)


def _further_templates(
    tokenizer: PreTrainedTokenizerBase, *, chosen: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the tokenizer's templates besides the one called default, and what is said of them.

    `chosen`: tokenizer.chat_template names another one. Raises ConfigError where it does not, and
    none of the tokenizer's own is the chat's.
    """
    own: Any = tokenizer.chat_template
    if isinstance(own, str) or not own:
        return {}, ()
    by_name = own if isinstance(own, dict) else {}
    further = {name: text for name, text in by_name.items() if name != "default"}
    listed = ", ".join(map(str, further))
    if chosen:
        gone = (f"the tokenizer's further chat templates ({listed}) are not saved.",)
        return {}, gone if further else ()
    if not by_name or not all(isinstance(text, str) for text in by_name.values()):
        raise ConfigError(
            f"tokenizer.chat_template: null, and the tokenizer's own is {own!r:.50}, where a text "
            f"is expected; set it to one of {', '.join(template_names())}, or to a Jinja file."
        )
    if "default" not in by_name:
        raise ConfigError(
            f"tokenizer.chat_template: null, and of the tokenizer's own ({listed}) none is called "
            "default; set it to a Jinja file with the one that is meant, or to one of "
            f"{', '.join(template_names())}."
        )
    if not further:
        return {}, ()
    return further, (
        f"conversations are written with the chat template called default; the others ({listed}) "
        "are saved as they are, and transformers takes tool_use for conversations with tools."
        if "tool_use" in further
        else f"conversations are written with the chat template called default; the others "
        f"({listed}) are saved as they are.",
    )


def _beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the start of a template that writes BOS so that the text behind it is a beginning.

    With a sentencepiece model, the first word of a text has a space before it (`▁A`). Behind BOS
    that is spelt out, a tokenizer of legacy=false gives `A`; a space behind BOS then makes the ids
    those of plain text. FastChat, and the tokenizer on plain text, have `▁A`.
    """
    plain, spaced = "{{- bos_token -}}\n", "{{- bos_token + ' ' -}}\n"
    text = tokenizer.apply_chat_template(_PROBE, tokenize=False)
    wanted = tokenizer(text)["input_ids"]

    def encoded(start: str) -> list[int]:
        ids: list[int] = tokenizer(tokenizer.bos_token + start + text, add_special_tokens=False)[
            "input_ids"
        ]
        return ids

    if encoded("") == wanted or encoded(" ") != wanted:
        return plain
    system = [{"role": "system", "content": "\ue000"}, *_PROBE]
    try:
        starts_with_system = tokenizer.apply_chat_template(system, tokenize=False)[:1] == "\ue000"
    except Exception:  # the format has no system message
        starts_with_system = False
    if not starts_with_system:
        return spaced
    # A system message that begins with a space has the one that a beginning needs.
    own = "messages[0]['role'] == 'system' and messages[0]['content'][:1] == ' '"
    return f"{{{{- bos_token + ('' if {own} else ' ') -}}}}\n"


def _inspect(
    tokenizer: PreTrainedTokenizerBase, source: str, wanted: str | None, *, adds_bos: bool
) -> ChatTemplatePlan:
    """Render a conversation, and look at its beginning and its end."""
    warnings = []
    vocabulary = tokenizer.get_vocab()
    missing = [m for m in _MARKERS.get(wanted or "", ()) if m not in vocabulary]
    if missing:
        listed = ",".join(f"'{marker}'" for marker in missing)
        warnings.append(
            f"the {wanted} format's {' '.join(missing)} are no tokens of this vocabulary and would "
            f"be spelled out; add them with tokenizer.add_tokens=[{listed}]."
        )
    if wanted == "mistral" and "[INST]" in vocabulary:
        warnings.append(
            "the mistral format is that of Mistral 7B's first version, and [INST] is a token of "
            "this vocabulary: later versions have no space around it, and other places for system "
            "prompts and tools; tokenizer.chat_template can name a Jinja file."
        )
    try:
        ids = tokenizer.apply_chat_template(_PROBE, tokenize=True, return_dict=False)
    except Exception as error:
        warnings.append(f"the chat template fails on a question and an answer ({error}).")
        return ChatTemplatePlan(
            source=source, saved=None, stop_token_ids=_end(tokenizer), warnings=tuple(warnings)
        )
    bos = tokenizer.bos_token_id
    leading = 0
    while bos is not None and leading < len(ids) and ids[leading] == bos:
        leading += 1
    if leading > 1:
        warnings.append(f"the chat template begins with {leading} BOS tokens.")
    if leading == 0 and adds_bos:
        warnings.append("plain text begins with BOS, and this chat template does not.")
    ends = _ends_of_answer(tokenizer)
    if not ends:
        warnings.append(
            "the chat template ends an answer without an end token: the model will not learn where "
            "to stop; tokenizer.chat_template can name another format."
        )
    has_own_end = ends and tokenizer.eos_token_id not in ends
    stops = (*_end(tokenizer), *(ends[:1] if has_own_end else ()))
    if not _continues_its_prompt(tokenizer):
        warnings.append(
            "the chat template does not write an answer behind its own generation prompt (as "
            "DeepSeek-R1's distillations, which cut the reasoning out of every answer): no "
            "conversation can be learned with it; set tokenizer.chat_template to a format "
            f"({', '.join(template_names())}) or to a Jinja file that keeps the answers whole."
        )
    return ChatTemplatePlan(
        source=source, saved=None, stop_token_ids=stops, warnings=tuple(warnings)
    )


def _ends_of_answer(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the added tokens that the template writes behind an answer; empty without any.

    One that stands before it (a role's, </think>) ends nothing, nor does the header that some
    templates write behind every conversation: the first is what ends the answer.
    """
    answer = {"role": "assistant", "content": _ANSWER}
    text = tokenizer.apply_chat_template([*_PROBE[:1], answer], tokenize=False)
    _, found, behind = str(text).rpartition(_ANSWER)
    ids: list[int] = tokenizer(behind if found else "", add_special_tokens=False)["input_ids"]
    marked = {*tokenizer.added_tokens_decoder, tokenizer.eos_token_id}
    return [i for i in ids if i in marked]


def _continues_its_prompt(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether some answer, with or without reasoning, begins where the model is asked to."""
    question = _PROBE[:1]
    try:
        prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    except Exception:
        return True
    thought = {"role": "assistant", "content": "A", "reasoning_content": "R"}
    spelt = {"role": "assistant", "content": "<think>\nR\n</think>\n\nA"}
    for answer in (_PROBE[1], thought, spelt):
        try:
            whole = tokenizer.apply_chat_template([*question, answer], tokenize=False)
        except Exception:
            continue
        if whole.startswith(prompt):
            return True
        plain = without_empty_thought(str(prompt))
        if plain is not None and str(whole).startswith(plain):
            return True
    return False


def _end(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
