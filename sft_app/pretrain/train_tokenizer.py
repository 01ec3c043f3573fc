"""A byte-level BPE tokenizer with ChatML, learned from the text at hand."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sft_app.data.chat.conversation import Message

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def as_chatml(messages: Iterable[Message], *, asks: bool = False) -> str:
    """Return what the template makes of the turns; `asks`: and of what opens the answer."""
    turns = "".join(f"{START}{m.role}\n{m.content}{END}\n" for m in messages)
    return f"{turns}{START}assistant\n" if asks else turns


def learn_tokenizer(
    texts: Iterable[str], vocab_size: int, context_length: int, *, digit_tokens: bool = False
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of `vocab_size` tokens on the texts, with a ChatML template.

    `digit_tokens`: every digit is a token of its own, as in Llama: a small model copies a number
    digit by digit long before it has seen every group of digits.
    """
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if digit_tokens else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHATML,
        model_max_length=context_length,
    )
