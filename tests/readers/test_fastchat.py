"""experiment=fastchat_vicuna against FastChat's own code (make test-readers): ids, labels, losses.

FastChat 0.2.36 and transformers 4.57's slow tokenizer run in an environment of their own. Answers
begin with what does and what does not take the space before it.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sft_app.config.schema.model import ModelConfig
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.render import Renderer
from sft_app.data.chat.tokenize import ChatTokenizer, TokenizedExample
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from tests.loader.conftest import make_checkpoint, real_text, sentencepiece_model
from tests.loader.test_fastchat_vicuna import CONVERSATIONS, losses, recipe
from tests.readers.test_readers import HERE, PYTHON

__all__ = ["make_checkpoint", "real_text", "sentencepiece_model"]

pytestmark = pytest.mark.readers

STARTS = [
    "1 is one", "12", "日本語です", "🙂 yes", "\nnew line", "\ttab", "(paren", "- item", "it",
    "   spaces", "Ω omega", "é", "<b>", "#", "0", "\n\n1. first", "USER is", "def f(x):",
]  # fmt: skip
LENGTH = 512
KINDS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "whole numbers": {"split_digits": False},
    "unigram": {"model_type": "unigram", "vocab_size": 1000},
}
Rows = list[tuple[list[int], list[int]]]


def conversations() -> list[list[str]]:
    made = [list(turns) for turns in CONVERSATIONS]
    for number, start in enumerate(STARTS):
        made.append([f"question {number}", f"{start} and more", start, start])
        made.append([start, f"{STARTS[-number]}.", f"Why? {start}", f" {start}"])
    return made


@pytest.fixture(scope="module", params=[(k, legacy) for k in KINDS for legacy in (True, False)])
def both(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., ModelConfig],
    sentencepiece_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Rows, Rows]:
    """A checkpoint, FastChat's rows and ours, padded alike."""
    kind, legacy = request.param
    path = make_checkpoint(
        "llama", vocab_size=1200, rms_norm_eps=1e-5 + len(kind) / 1e7
    ).name_or_path
    sentencepiece_model(Path(path), **KINDS[kind])
    file = tmp_path_factory.mktemp("fastchat") / "jobs.json"
    chats = [
        [{"from": ("human", "gpt")[n % 2], "value": turn} for n, turn in enumerate(turns)]
        for turns in conversations()
    ]
    job = {"directory": path, "length": LENGTH, "legacy": legacy, "conversations": chats}
    file.write_text(json.dumps({"job": job}))
    answer = subprocess.run(
        [str(PYTHON), str(HERE / "fastchat_reader.py"), str(file)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = json.loads(file.with_suffix(".out").read_text())["job"]
    return path, list(zip(found["ids"], found["labels"], strict=True)), ours(path, legacy)


def ours(path: str, legacy: bool) -> Rows:
    config = recipe(f"model.name_or_path={path}", f"context_length={LENGTH}",
                    f"tokenizer.legacy={str(legacy).lower()}")  # fmt: skip
    tokenizer, _ = load_tokenizer(
        config.tokenizer, config.model, load_pretrained_config(config.model)
    )
    renderer, chat = Renderer(tokenizer), ChatTokenizer(tokenizer)
    rows = []
    for turns in conversations():
        messages = [Message(("user", "assistant")[n % 2], turn) for n, turn in enumerate(turns)]
        [example] = chat.tokenize(renderer.render(Conversation(messages)))
        assert isinstance(example, TokenizedExample)
        ids = example.input_ids[:LENGTH]
        labels = [-100] * len(example.input_ids)
        for span in example.spans:
            labels[span.start : span.stop] = example.input_ids[span.start : span.stop]
        rest = LENGTH - len(ids)
        assert tokenizer.pad_token_id == tokenizer.unk_token_id
        rows.append((ids + [tokenizer.pad_token_id] * rest, labels[:LENGTH] + [-100] * rest))
    return rows


def test_ids_and_labels_are_those_of_fastchat_s_code(both: tuple[str, Rows, Rows]) -> None:
    _, theirs, own = both
    assert len(own) == len(theirs) == len(conversations())
    assert not any(set(labels) == {-100} for _, labels in theirs), "a poor test: nothing is learned"
    assert own == theirs


def test_losses_of_three_steps_are_fastchat_s(both: tuple[str, Rows, Rows]) -> None:
    path, theirs, own = both
    torch.set_num_threads(1)
    few = [3, 4, 5, 6]
    found = losses(path, [own[n] for n in few])
    assert found == losses(path, [theirs[n] for n in few])
    assert found[0] > found[1] > found[2]
    assert AutoModelForCausalLM.from_pretrained(path).config.vocab_size == 1200
