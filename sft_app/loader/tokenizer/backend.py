"""Which of a checkpoint's tokenizer files is used, and what comes out of it.

tokenizer.json holds the whole segmentation and comes first. A sentencepiece tokenizer.model is
rebuilt when it is all there is, or when `tokenizer.use_fast=false` asks for the library's own
segmentation. Whenever there is a tokenizer.model, the outcome is compared with the library.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.tokenizer.sentencepiece_backend import (
    PROBES,
    differences,
    read_settings,
    rebuild_tokenizer,
    stated_tokens,
    wrong_ids,
)

_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A tokenizer, and which rules it segments by."""

    tokenizer: PreTrainedTokenizerBase
    description: str
    warnings: tuple[str, ...] = ()


def load_backend(
    tokenizer_config: TokenizerConfig, model_config: ModelConfig, checkpoint: Checkpoint
) -> Backend:
    """Load a tokenizer from the file that knows best. Raises ConfigError when there is none."""
    try:
        backend = _loaded(tokenizer_config, model_config, checkpoint)
    except ConfigError:
        raise
    except Exception as error:  # the libraries raise whatever a damaged file leads them to
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"model.trust_remote_code: false, but the tokenizer of {checkpoint.location!r} "
                "needs Python code of its own; read that code, then set "
                "model.trust_remote_code=true, or give another with tokenizer.name_or_path=..."
            ) from error
        raise _unreadable(checkpoint, f"{type(error).__name__}: {error}") from error
    longest = backend.tokenizer.model_max_length
    if not isinstance(longest, int | float) or not 0 < longest < math.inf:
        what = f"tokenizer_config.json says model_max_length={longest!r:.50}, and means no number"
        raise _unreadable(checkpoint, what)
    return backend


def _loaded(
    tokenizer_config: TokenizerConfig, model_config: ModelConfig, checkpoint: Checkpoint
) -> Backend:
    sentencepiece = next((p for n in _SENTENCEPIECE_FILES if (p := checkpoint.file(n))), None)
    whole = checkpoint.file("tokenizer.json")
    wants_library = not tokenizer_config.use_fast or tokenizer_config.legacy is not None
    if sentencepiece is not None and (whole is None or wants_library):
        return _rebuilt(tokenizer_config, checkpoint, sentencepiece)
    loaded = _auto(model_config, checkpoint)
    warnings = []
    description = f"{type(loaded).__name__} of transformers"
    about = checkpoint.file("tokenizer_config.json")
    checkpoint.file("added_tokens.json")
    settings = read_settings(about.parent) if about else {}
    if whole is None:
        _check_ids(loaded, settings, checkpoint)
    else:
        loaded = _as_written(loaded, whole)
        invented = _invented(loaded, whole)
        _check_ids(loaded, settings, checkpoint, of=invented)
        warnings += _unknown_names(loaded, invented - stated_tokens(settings))
        description = "tokenizers library, from tokenizer.json"
    if tokenizer_config.legacy is not None:
        warnings.append("tokenizer.legacy has no meaning here: there is no sentencepiece model.")
    if not tokenizer_config.use_fast:
        description += " (use_fast=false changes nothing: there is no sentencepiece model)"
    if sentencepiece is not None:
        different = differences(loaded, sentencepiece)
        if different:
            warnings.append(
                f"tokenizer.json segments {len(different)} of {len(PROBES)} probe texts otherwise "
                "than the sentencepiece model beside it; tokenizer.use_fast=false takes the latter."
            )
        else:
            description += f", equal to the sentencepiece library on {len(PROBES)} probe texts"
    return Backend(tokenizer=loaded, description=description, warnings=tuple(warnings))


def _rebuilt(tokenizer_config: TokenizerConfig, checkpoint: Checkpoint, file: Path) -> Backend:
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        checkpoint.file(name)  # so that a hub's files lie beside the model file
    settings = read_settings(file.parent)
    legacy = tokenizer_config.legacy
    if legacy is None:
        stated = settings.get("legacy")
        legacy = True if stated is None else bool(stated)
    rebuilt = rebuild_tokenizer(file, settings, legacy=legacy)
    _check_ids(rebuilt, settings, checkpoint)
    different = differences(rebuilt, file)
    description = f"sentencepiece model {file.name}, rebuilt (legacy={str(legacy).lower()})"
    warnings = []
    if different:
        shown = ", ".join(repr(text[:20]) for text in different[:3])
        warnings.append(
            f"{len(different)} of {len(PROBES)} probe texts are segmented otherwise than by the "
            f"sentencepiece library ({shown})"
            + (": with legacy=false, texts that begin with a space are." if not legacy else ".")
        )
    else:
        description += f", equal to the library on {len(PROBES)} probe texts"
    return Backend(tokenizer=rebuilt, description=description, warnings=tuple(warnings))


def _auto(model_config: ModelConfig, checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    loaded = AutoTokenizer.from_pretrained(
        checkpoint.location,
        trust_remote_code=model_config.trust_remote_code,
        **checkpoint.arguments(),
    )
    try:
        loaded.add_tokens([])
    except NotImplementedError as error:  # mistral-common's, which a tekken.json alone is read with
        what = (
            f"{type(loaded).__name__} has no chat template, and takes no tokens: a tokenizer.json"
        )
        raise _unreadable(checkpoint, f"{what} is needed") from error
    # Without any file, transformers v5 makes up a tokenizer that knows nothing but specials.
    if len(loaded.get_vocab()) <= len(loaded.all_special_tokens):
        raise _unreadable(checkpoint, "there are no vocabulary files")
    return loaded


def _check_ids(
    tokenizer: PreTrainedTokenizerBase,
    settings: dict[str, Any],
    checkpoint: Checkpoint,
    *,
    of: set[str] | None = None,
) -> None:
    """Raise ConfigError where an added token lost its id: it would have another one's embedding.

    The tokenizers library numbers new tokens without a gap. `of`: the tokens that are looked at;
    None: all.
    """
    wrong = wrong_ids(tokenizer, settings, of)
    if wrong:
        raise ConfigError(
            f"tokenizer.name_or_path: the added tokens of {checkpoint.location!r} do not follow "
            f"its vocabulary one by one ({wrong[0]}; {len(wrong)} such), which only a "
            "tokenizer.json can say; put there the one that transformers 4 writes of it."
        )


def _invented(tokenizer: PreTrainedTokenizerBase, whole: Path) -> set[str]:
    """Return the tokens that transformers added to those of tokenizer.json."""
    written = Tokenizer.from_file(str(whole)).get_vocab(with_added_tokens=True)
    return tokenizer.get_vocab().keys() - written.keys()


def _unknown_names(tokenizer: PreTrainedTokenizerBase, invented: set[str]) -> list[str]:
    ids = tokenizer.get_vocab()
    return [
        f"{token!r} is named as a special token, and tokenizer.json does not have it: it is a new "
        f"token, id {ids[token]}, and the model may never have seen it."
        for token in sorted(invented)
    ]


def _unreadable(checkpoint: Checkpoint, what: str) -> ConfigError:
    return ConfigError(
        f"tokenizer.name_or_path: no tokenizer can be read from {checkpoint.location!r} "
        f"({' '.join(what.split())[:300]}); give a directory or hub id that has one with "
        "tokenizer.name_or_path=..."
    )


def _as_written(loaded: PreTrainedTokenizerBase, whole: Path) -> PreTrainedTokenizerBase:
    """Undo what some classes of transformers replace in a tokenizer.json; the file is right."""
    written = Tokenizer.from_file(str(whole))
    texts = [text for text in PROBES if text]
    same = all(
        loaded(text, add_special_tokens=False)["input_ids"]
        == written.encode(text, add_special_tokens=False).ids
        for text in texts
    )
    if same:
        return loaded
    return PreTrainedTokenizerFast(tokenizer_object=written, **loaded.init_kwargs)
