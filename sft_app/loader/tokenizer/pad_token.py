"""The pad token: one that can never hide the end token, or be confused with text."""

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError

NEW_PAD_TOKEN = "<|pad|>"

_RESERVED = re.compile(r"(reserved|unused|extra|fim_pad|finetune_right_pad)", re.IGNORECASE)


@dataclass(frozen=True)
class PadTokenPlan:
    """The token that pads, and why it was chosen."""

    token: str
    reason: str
    warnings: tuple[str, ...] = ()


def choose_pad_token(tokenizer: PreTrainedTokenizerBase, wanted: str) -> PadTokenPlan:
    """Apply `tokenizer.pad_token`: auto, unk, eos, reserved, new, or a literal token.

    Raises ConfigError when the tokenizer has no such token.
    """
    match wanted:
        case "auto":
            return _auto(tokenizer)
        case "unk":
            if tokenizer.unk_token is None:
                raise _missing(wanted, "unknown token")
            return _checked(tokenizer, tokenizer.unk_token, "the unknown token, as asked")
        case "eos":
            if tokenizer.eos_token is None:
                raise _missing(wanted, "end token")
            return _checked(tokenizer, tokenizer.eos_token, "the end token, as asked")
        case "reserved":
            token = _reserved(tokenizer)
            if token is None:
                raise _missing(wanted, "reserved token")
            return PadTokenPlan(token, "a reserved token, as asked")
        case "new":
            return _new(tokenizer, "a new token, as asked")
        case literal:
            # `convert_tokens_to_ids` answers with unk's id for a token that is not there.
            if literal not in tokenizer.get_vocab():
                raise ConfigError(
                    f"tokenizer.pad_token: {literal!r} is not in the vocabulary; give auto, unk, "
                    "eos, reserved, new, or a token of the vocabulary (tokenizer.add_tokens adds)."
                )
            return _checked(tokenizer, literal, "as asked")


def _checked(tokenizer: PreTrainedTokenizerBase, token: str, reason: str) -> PadTokenPlan:
    """Warn of EOS as padding: it is learned here, where labels are made from spans and not ids."""
    if token == tokenizer.eos_token:
        return PadTokenPlan(
            token,
            reason,
            warnings=(
                f"pad token {token!r} is the end token: it is learned here, but other tools that "
                "mask padding by its id will not see ends; tokenizer.pad_token=auto avoids it.",
            ),
        )
    return PadTokenPlan(token, reason)


def _auto(tokenizer: PreTrainedTokenizerBase) -> PadTokenPlan:
    pad, unk, eos, bos = (
        tokenizer.pad_token,
        tokenizer.unk_token,
        tokenizer.eos_token,
        tokenizer.bos_token,
    )
    if pad is not None and pad not in (eos, bos):
        return PadTokenPlan(pad, "the tokenizer's own")
    why = f"not the tokenizer's own {pad!r}, which is also BOS or EOS" if pad else "it had none"
    if unk is not None and unk not in (eos, bos):
        return PadTokenPlan(unk, f"the unknown token ({why})")
    reserved = _reserved(tokenizer)
    if reserved is not None:
        return PadTokenPlan(reserved, f"a reserved token ({why})")
    return _new(tokenizer, f"a new token ({why})")


def _reserved(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a special token that its makers left unused; one made for padding first."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    taken = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token}
    unused = [token for token in special if _RESERVED.search(token) and token not in taken]
    return min(unused, key=lambda token: "pad" not in token.lower(), default=None)


def _new(tokenizer: PreTrainedTokenizerBase, reason: str) -> PadTokenPlan:
    return PadTokenPlan(NEW_PAD_TOKEN, reason)


def _missing(wanted: str, what: str) -> ConfigError:
    return ConfigError(
        f"tokenizer.pad_token: {wanted}, but this tokenizer has no {what}; "
        "use tokenizer.pad_token=auto or new."
    )
