"""Tokenizers trained on the spot, and chat templates of the usual kinds: no hub, no files."""

import functools
from string import printable

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITHOUT_GENERATION_PROMPT = CHATML.partition("{% if add")[0]
CHATML_WITH_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}"
    "{% endif %}" + CHATML
)
CHATML_WITH_MARKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_WITH_MARKS_BEFORE_THE_END = CHATML_WITH_MARKS.replace(
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}",
    "{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}",
)
VICUNA = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}"
    "{% else %}{{ 'A chat between a curious user and an assistant. ' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% elif m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}"
    "{{ '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content.strip() + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content.strip() + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
WITHOUT_END_TOKEN = (
    "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
REWRITES_HISTORY = (
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'assistant' and not loop.last %}"
    "{% set text = m.content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ '<call>' + (call.function | tojson) + '</call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "chatml without generation prompt": CHATML_WITHOUT_GENERATION_PROMPT,
    "chatml with default system": CHATML_WITH_DEFAULT_SYSTEM,
    "chatml with marks": CHATML_WITH_MARKS,
    "chatml with marks before the end token": CHATML_WITH_MARKS_BEFORE_THE_END,
    "vicuna": VICUNA,
    "llama 2": LLAMA2,
    "llama 3": LLAMA3,
    "without end token": WITHOUT_END_TOKEN,
}

CORPUS = [
    "Hello, what is the capital of France? The capital is Paris. 42 is the answer to everything.",
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:",
    "def main():\n    return {'a': 1}\n\n# Äpfel und 😀 für 日本語",
] * 4

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
MORE_SPECIAL = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def _finish(backend: Tokenizer, trainer: trainers.Trainer, template: str, **roles: str):
    backend.train_from_iterator(CORPUS, trainer)
    # As in Llama 3: the end of turn is an added token, and in no special role.
    backend.add_special_tokens([AddedToken(t, special=True) for t in MORE_SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **roles)
    tokenizer.chat_template = template
    return tokenizer


def byte_level(template: str = CHATML, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """Byte-level BPE, with a post-processor that leaves whitespace out of the offsets (Llama 3)."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return _finish(backend, trainer, template, eos_token=eos, bos_token="<s>", pad_token=eos)


@functools.cache
def _shared() -> PreTrainedTokenizerFast:
    return byte_level()


def with_template(template: str) -> PreTrainedTokenizerFast:
    """One byte-level tokenizer, trained once, with the template of whoever asked last."""
    _shared().chat_template = template
    return _shared()


def sentencepiece_like(template: str = VICUNA) -> PreTrainedTokenizerFast:
    """BPE over text whose spaces are ▁, with one at the start, as Llama 2's; it adds BOS."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    letters = sorted({letter for text in CORPUS for letter in text} | set(printable + "▁"))
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = _finish(
        backend, trainer, template, eos_token="</s>", bos_token="<s>", pad_token="<unk>"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = None  # it was for training: words, not sentences
    return tokenizer


class WordTokenizer(PreTrainedTokenizer):
    """A tokenizer written in Python, without offsets: a token is a word with the space before it,
    or any other character."""

    def __init__(self, **kwargs) -> None:
        self._ids = {token: number for number, token in enumerate(SPECIAL)}
        self._tokens = dict(enumerate(SPECIAL))
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return len(SPECIAL)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids) | self.added_tokens_encoder

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        import re

        return re.findall(r" ?\w+|.", text, re.DOTALL)

    def _convert_token_to_id(self, token: str) -> int:
        # Far above the added tokens, which follow the first ids.
        number = self._ids.setdefault(token, 1000 + len(self._ids))
        self._tokens[number] = token
        return number

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def in_python(template: str = VICUNA) -> WordTokenizer:
    tokenizer = WordTokenizer(
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    tokenizer.add_special_tokens({"extra_special_tokens": SPECIAL[3:] + MORE_SPECIAL})
    tokenizer.chat_template = template
    return tokenizer
