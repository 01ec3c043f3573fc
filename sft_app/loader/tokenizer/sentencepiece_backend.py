"""A `tokenizer.model` (sentencepiece) as a tokenizer that segments exactly like that library.

transformers v5 ranks the merges of such a file by id instead of by score, so that runs of spaces
come out in pieces which the model never saw. Here they are ranked by score, as the library does,
and the outcome is compared with the library itself.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sft_app.common.errors import ConfigError
from sft_app.compat.loading_and_saving import sentencepiece_model_proto

SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_OF_OTHER_CLASSES = (
    "tokenizer_class",
    "sp_model_kwargs",
    "auto_map",
    "add_bos_token",
    "add_eos_token",
    "added_tokens_decoder",
    "use_default_system_prompt",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
)

PROBES = (
    "Hello world",
    "Hello  world   with    runs     of      spaces",
    *(f"a{' ' * n}b" for n in (7, 8, 9, 12, 15, 16, 17, 31, 33)),
    "    indented\n        twice\n\n\n\tand a tab",
    "def f(x):\n    if x:\n        return  x ** 2   # why\n",
    "1234567890 3.14159 1,000,000",
    "naïve café Straße ελληνικά русский 中文字符 日本語 한국어",
    "emoji 🙂👩‍👩‍👧 and \u200b zero width",
    "trailing spaces   ",
    "trailing newline\n",
    "https://example.org/a?b=c&d=%20e",
    "\\frac{a}{b} <html> {json: \"x\"} 'quotes' “curly”",
    "USER: hi ASSISTANT: hello",
    " one leading space",
    "   three leading spaces",
)
"""Texts on which a tokenizer is compared with the library; spaces are where others go wrong."""


def rebuild_tokenizer(
    model_file: Path, settings: dict[str, Any], *, legacy: bool
) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a sentencepiece model.

    `settings` is the checkpoint's tokenizer_config.json ({} if there is none: then BOS is put in
    front, as every Llama-like sentencepiece model expects). `legacy` is transformers' name for what
    follows a special token: True puts the dummy prefix in front of every stretch of text, False
    only in front of the first.
    """
    model = sentencepiece_model_proto()()
    model.ParseFromString(model_file.read_bytes())
    tokenizer = Tokenizer(_segmentation(model))
    _set_spaces(tokenizer, model.normalizer_spec, legacy=legacy)
    special = _special_tokens(model, settings)
    _add_tokens(tokenizer, model, special, settings)
    _set_begin_and_end(tokenizer, special, settings)
    kept = {
        key: value
        for key, value in settings.items()
        if key not in _OF_OTHER_CLASSES and key not in special
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**kept, **special})


def differences(
    tokenizer: PreTrainedTokenizerBase, model_file: Path, texts: Iterable[str] = PROBES
) -> list[str]:
    """Return the texts that `tokenizer` segments differently from the sentencepiece library."""
    library = SentencePieceProcessor(model_file=str(model_file))
    return [
        text
        for text in texts
        if tokenizer(text, add_special_tokens=False)["input_ids"] != library.encode(text)
    ]


def ranked_merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the merges of a BPE vocabulary, best first.

    The library joins the neighbours whose joint piece has the highest score; of one piece's ways
    to be split, the longer left part comes first.
    """
    merges = []
    for piece, score in scores.items():
        for middle in range(1, len(piece)):
            left, right = piece[:middle], piece[middle:]
            if left in scores and right in scores:
                merges.append((-score, -len(left), left, right))
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]


def read_settings(directory: Path) -> dict[str, Any]:
    """Read tokenizer_config.json, the older files beside it, and the chat templates."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            settings.update(json.loads((directory / name).read_text(encoding="utf-8")))
    if (directory / "added_tokens.json").is_file() and "added_tokens_decoder" not in settings:
        added = json.loads((directory / "added_tokens.json").read_text(encoding="utf-8"))
        settings["added_tokens_decoder"] = {
            str(id_): {"content": text, "special": True} for text, id_ in added.items()
        }
    if (directory / "chat_template.jinja").is_file():
        template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
        settings["chat_template"] = template
    further = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    if further:
        texts = {path.stem: path.read_text(encoding="utf-8") for path in further}
        default = settings.get("chat_template")
        settings["chat_template"] = ({"default": default} if default else {}) | texts
    return settings


def _segmentation(model: Any) -> models.Model:
    kind = model.trainer_spec.model_type
    if kind == _BPE:
        ids = {piece.piece: index for index, piece in enumerate(model.pieces)}
        scores = {p.piece: p.score for p in model.pieces if p.type in (_NORMAL, _USER_DEFINED)}
        return models.BPE(
            vocab=ids,
            merges=ranked_merges(scores),
            unk_token=model.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
    if kind == _UNIGRAM:
        return models.Unigram(
            [(p.piece, p.score) for p in model.pieces],
            unk_id=model.trainer_spec.unk_id,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
    raise ConfigError(
        f"tokenizer.name_or_path: its sentencepiece model is of type {kind}, and only unigram (1) "
        "and BPE (2) are supported; convert it to a tokenizer.json."
    )


def _set_spaces(tokenizer: Tokenizer, spec: Any, *, legacy: bool) -> None:
    """Make spaces ▁; a ▁ in front of the text stands for the space before a first word."""
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    prefix = spec.add_dummy_prefix
    if prefix and legacy:
        steps.append(normalizers.Prepend(SPACE))
    if legacy or not prefix:
        steps.append(normalizers.Replace(" ", SPACE))
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=SPACE, prepend_scheme="first", split=False
        )
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    decoding = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        decoding.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(decoding)


def _special_tokens(model: Any, settings: dict[str, Any]) -> dict[str, str]:
    """Find unk, bos, eos and pad by name; the settings come before the model file's word."""
    found = {}
    trainer = model.trainer_spec
    for name in ("unk", "bos", "eos", "pad"):
        key = f"{name}_token"
        stated = settings.get(key)
        if isinstance(stated, dict):
            stated = stated.get("content")
        id_ = getattr(trainer, f"{name}_id")
        in_model = model.pieces[id_].piece if 0 <= id_ < len(model.pieces) else None
        token = stated if key in settings else in_model
        if token:
            found[key] = token
    return found


def _add_tokens(
    tokenizer: Tokenizer, model: Any, special: dict[str, str], settings: dict[str, Any]
) -> None:
    """Add what is never split: pieces under their own ids, and then the tokens added later.

    The library numbers new tokens as they come, so that those whose ids are stated come first, in
    the order of their ids, whatever they are for.
    """
    names = dict.fromkeys(special.values())
    pieces = {piece.piece: piece.type for piece in model.pieces}
    stated = _added_tokens(settings)
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in names if name in pieces]
    )
    for piece, kind in pieces.items():
        if kind in (_CONTROL, _USER_DEFINED) and piece not in names:
            marked = AddedToken(piece, normalized=False, special=kind == _CONTROL)
            tokenizer.add_tokens([marked])
    for token in stated:
        (tokenizer.add_special_tokens if token.content in names else tokenizer.add_tokens)([token])
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in names]
    )


def _added_tokens(settings: dict[str, Any]) -> list[AddedToken]:
    """Return the tokens added after the sentencepiece model was trained, in the order of ids."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        AddedToken(entry["content"], **{f: bool(entry[f]) for f in flags if f in entry})
        for _, entry in _stated_by_id(settings)
    ]


def stated_tokens(settings: dict[str, Any]) -> set[str]:
    """Return the added tokens whose ids the checkpoint's files state."""
    return {entry["content"] for _, entry in _stated_by_id(settings)}


def wrong_ids(
    tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any], of: set[str] | None = None
) -> list[str]:
    """Say, in words, which added tokens have other ids than the checkpoint's files state.

    `of`: only these tokens; None: all.
    """
    found = [
        (entry["content"], id_, tokenizer.convert_tokens_to_ids(entry["content"]))
        for id_, entry in _stated_by_id(settings)
        if of is None or entry["content"] in of
    ]
    return [f"{token!r} is {id_}, and would be {own}" for token, id_, own in found if own != id_]


def _stated_by_id(settings: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    decoder: dict[str, Any] = settings.get("added_tokens_decoder") or {}
    return sorted(((int(id_), entry) for id_, entry in decoder.items()), key=lambda one: one[0])


def _set_begin_and_end(
    tokenizer: Tokenizer, special: dict[str, str], settings: dict[str, Any]
) -> None:
    begin = special.get("bos_token") if settings.get("add_bos_token", True) else None
    end = special.get("eos_token") if settings.get("add_eos_token", False) else None
    parts = [f"{begin}:0"] if begin else []
    parts += ["$A:0", *([f"{end}:0"] if end else [])]
    second = [part.replace(":0", ":1").replace("$A", "$B") for part in parts]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(parts),
        pair=" ".join([*parts, *second]),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end) if token],
    )
