"""Chat templates: the tokenizer's own, one of the named formats, or a file."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError

_DIRECTORY = Path(__file__).with_name("chat_templates")

_MARKERS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}
"""Markers that a format expects to be one token each."""

_PROBE = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@dataclass(frozen=True, kw_only=True)
class ChatTemplatePlan:
    """Where the template came from, and what it ends answers with."""

    source: str
    stop_token_ids: tuple[int, ...]
    """Ids that end an answer: the end token, and the template's own end of a turn."""
    warnings: tuple[str, ...]


def template_names() -> list[str]:
    """Return the names that `tokenizer.chat_template` takes."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.jinja"))


def set_chat_template(
    tokenizer: PreTrainedTokenizerBase, wanted: str | None, *, adds_bos: bool
) -> ChatTemplatePlan:
    """Give `tokenizer` the template that `tokenizer.chat_template` names (null: its own).

    A named format begins with BOS exactly if the tokenizer puts BOS in front of plain text: the
    rendered text is to be encoded without special tokens, so that there is one BOS and not two.

    Raises ConfigError for a name that is neither a format nor a file.
    """
    source = "the tokenizer's own"
    if wanted is not None and wanted in template_names():
        text = (_DIRECTORY / f"{wanted}.jinja").read_text(encoding="utf-8")
        begin = "{{- bos_token -}}\n" if adds_bos else ""
        tokenizer.chat_template = begin + text
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
        return ChatTemplatePlan(source="none", stop_token_ids=_end(tokenizer), warnings=())
    return _inspect(tokenizer, source, wanted, adds_bos=adds_bos)


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
    try:
        ids = tokenizer.apply_chat_template(_PROBE, tokenize=True, return_dict=False)
    except Exception as error:
        warnings.append(f"the chat template fails on a question and an answer ({error}).")
        return ChatTemplatePlan(
            source=source, stop_token_ids=_end(tokenizer), warnings=tuple(warnings)
        )
    bos = tokenizer.bos_token_id
    leading = 0
    while bos is not None and leading < len(ids) and ids[leading] == bos:
        leading += 1
    if leading > 1:
        warnings.append(f"the chat template begins with {leading} BOS tokens.")
    if leading == 0 and adds_bos:
        warnings.append("plain text begins with BOS, and this chat template does not.")
    marked = {*tokenizer.added_tokens_decoder, tokenizer.eos_token_id}
    ends = [i for i in ids[leading:] if i in marked]
    if not ends:
        warnings.append("the chat template ends an answer without an end token: none is learned.")
    stops = (*_end(tokenizer), *(i for i in ends[-1:] if i not in _end(tokenizer)))
    return ChatTemplatePlan(source=source, stop_token_ids=stops, warnings=tuple(warnings))


def _end(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
