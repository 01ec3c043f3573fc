"""Load a tokenizer, and decide its padding, length and chat template."""

import logging

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from sft_app.config.errors import ConfigError
from sft_app.config.model import ModelConfig, TokenizerConfig
from sft_app.loader.checkpoint import find_checkpoint
from sft_app.loader.padding import choose_pad_token
from sft_app.loader.pretrained_config import check_remote_code
from sft_app.loader.tokenizer_plan import TokenizerPlan

logger = logging.getLogger(__name__)


def load_tokenizer(
    tokenizer: TokenizerConfig, model: ModelConfig, config: PretrainedConfig
) -> tuple[PreTrainedTokenizerBase, TokenizerPlan]:
    """Load the tokenizer of `tokenizer.name_or_path`, or the model's own.

    Raises ConfigError when there is none, or when a setting does not suit it.
    """
    checkpoint = find_checkpoint(model, name_or_path=tokenizer.name_or_path)
    check_remote_code(model, checkpoint)
    try:
        loaded = AutoTokenizer.from_pretrained(
            checkpoint.location,
            trust_remote_code=model.trust_remote_code,
            **checkpoint.arguments(),
        )
    except Exception as error:
        raise ConfigError(
            f"tokenizer.name_or_path: no tokenizer can be read from {checkpoint.location!r} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]})."
        ) from error
    loaded.padding_side = tokenizer.padding_side.value
    loaded.model_max_length = tokenizer.model_max_length
    before = set(loaded.get_vocab())
    loaded.add_tokens(tokenizer.add_tokens)
    pad = choose_pad_token(loaded, tokenizer.pad_token)
    loaded.pad_token = pad.token
    added = sorted(set(loaded.get_vocab()) - before, key=loaded.get_vocab().__getitem__)
    probe = loaded("a")["input_ids"]
    plan = TokenizerPlan(
        name_or_path=checkpoint.location,
        backend=type(loaded).__name__,
        vocab_size=len(loaded),
        model_max_length=loaded.model_max_length,
        padding_side=loaded.padding_side,
        pad_token=pad.token,
        pad_token_id=loaded.pad_token_id,
        pad_reason=pad.reason,
        added_tokens=tuple(added),
        bos_token_id=loaded.bos_token_id,
        eos_token_id=loaded.eos_token_id,
        chat_template="the tokenizer's own" if loaded.chat_template else "none",
        adds_bos=bool(probe) and probe[0] == loaded.bos_token_id,
    )
    return loaded, plan
