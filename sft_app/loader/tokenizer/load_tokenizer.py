"""Load a tokenizer, and decide its backend, padding, length and chat template."""

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.loader.checkpoint.locate import find_checkpoint
from sft_app.loader.checkpoint.pretrained_config import check_remote_code
from sft_app.loader.tokenizer.backend import load_backend
from sft_app.loader.tokenizer.chat_template import set_chat_template
from sft_app.loader.tokenizer.pad_token import choose_pad_token
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan


def load_tokenizer(
    tokenizer_config: TokenizerConfig, model_config: ModelConfig, hf_config: PretrainedConfig
) -> tuple[PreTrainedTokenizerBase, TokenizerPlan]:
    """Load the tokenizer of `tokenizer.name_or_path`, or the model's own.

    Raises ConfigError when there is none, or when a setting does not suit it.
    """
    checkpoint = find_checkpoint(model_config, name_or_path=tokenizer_config.name_or_path)
    check_remote_code(model_config, checkpoint)
    backend = load_backend(tokenizer_config, model_config, checkpoint)
    loaded = backend.tokenizer
    own_max_length = min(int(loaded.model_max_length), 2**40)
    before = loaded.get_vocab()
    loaded.padding_side = tokenizer_config.padding_side.value
    loaded.model_max_length = tokenizer_config.model_max_length
    loaded.add_tokens([token for token in tokenizer_config.add_tokens if token not in before])
    pad = choose_pad_token(loaded, tokenizer_config.pad_token)
    if pad.token in loaded.get_vocab():
        loaded.pad_token = pad.token
    else:  # naming a token as pad does not add it: its id would be the unknown token's
        loaded.add_special_tokens({"pad_token": pad.token})
    _check_new_ids(before, loaded.get_vocab(), pad.token)

    adds_bos = _adds_bos(loaded)
    template = set_chat_template(
        loaded,
        tokenizer_config.chat_template,
        adds_bos=adds_bos,
        kwargs=tokenizer_config.chat_template_kwargs,
    )
    vocabulary = loaded.get_vocab()
    added = sorted(vocabulary.keys() - before.keys(), key=vocabulary.__getitem__)
    rows = getattr(hf_config.get_text_config(decoder=True), "vocab_size", None)
    plan = TokenizerPlan(
        name_or_path=checkpoint.location,
        backend=backend.description,
        vocab_size=max(vocabulary.values()) + 1,
        model_vocab_size=rows,
        model_max_length=loaded.model_max_length,
        own_max_length=own_max_length,
        padding_side=loaded.padding_side,
        pad_token=pad.token,
        pad_token_id=loaded.pad_token_id,
        pad_reason=pad.reason,
        added_tokens=tuple(added),
        added_token_ids=tuple(vocabulary[token] for token in added),
        bos_token_id=loaded.bos_token_id,
        eos_token_id=loaded.eos_token_id,
        stop_token_ids=template.stop_token_ids,
        chat_template=template.source,
        saved_chat_template=template.saved,
        adds_bos=adds_bos,
        warnings=backend.warnings
        + pad.warnings
        + template.warnings
        + _ids_without_rows(before, rows),
    )
    return loaded, plan


def _ids_without_rows(vocabulary: dict[str, int], rows: int | None) -> tuple[str, ...]:
    """Say which of a tokenizer's own tokens the model has no row for."""
    without = sorted((i, token) for token, i in vocabulary.items() if rows and i >= rows)
    if not without:
        return ()
    shown = ", ".join(repr(token) for _, token in without[:3])
    more = ", ..." if len(without) > 3 else ""
    return (
        f"the model has {rows:,} rows, and {len(without):,} of the tokenizer's ids lie beyond them "
        f"({shown}{more}): rows are added, and begin at the mean of the others. If these are not "
        "tokens that you have added to it, tokenizer.name_or_path names another model's tokenizer.",
    )


def _check_new_ids(before: dict[str, int], after: dict[str, int], pad: str) -> None:
    """Raise ConfigError where a new token has an old one's id, and would take its embedding.

    The tokenizers library counts the vocabulary for the next id, which is wrong where ids are left
    out.
    """
    owners = {id_: token for token, id_ in before.items()}
    for token in after.keys() - before.keys():
        if after[token] in owners:
            key = "tokenizer.pad_token" if token == pad else "tokenizer.add_tokens"
            raise ConfigError(
                f"{key}: {token!r} would be a new token, and its id that of "
                f"{owners[after[token]]!r} ({after[token]}), because ids are left out in this "
                "vocabulary; name a token that it has instead, such as tokenizer.pad_token=eos."
            )


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
