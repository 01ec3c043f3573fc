"""experiment=fastchat_vicuna: FastChat's loading rules, one test for each.

The rules: linear RoPE with factor ceil(L / L0) if L > L0; use_cache off in training, on again
before saving; right padding; the slow tokenizer; pad token = unk token; model_max_length = L;
facebook/opt-125m and 512 as the script's defaults.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from sentencepiece import SentencePieceProcessor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sft_app.config.schema.app import AppConfig, register_schema, to_typed
from sft_app.config.schema.model import ModelConfig
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.render import Renderer
from sft_app.data.chat.tokenize import ChatTokenizer, TokenizedExample
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.embeddings import fit_model_to_tokenizer
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.save_pretrained import save_for_serving
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan

MakeCheckpoint = Callable[..., ModelConfig]
Train = Callable[..., Path]
L0 = 64


def recipe(*overrides: str) -> AppConfig:
    register_schema()
    with initialize_config_module("sft_app.conf", version_base="1.3"):
        return to_typed(compose("config", ["experiment=fastchat_vicuna", *overrides]))


Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase, RopePlan, TokenizerPlan]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint, sentencepiece_model: Train) -> Callable[[str], str]:
    """A tiny Llama or OPT with a sentencepiece tokenizer.model and nothing else beside it."""

    def make(family: str) -> str:
        model = make_checkpoint(family, vocab_size=1200)
        if not (Path(model.name_or_path) / "tokenizer.model").is_file():
            sentencepiece_model(Path(model.name_or_path))
        return model.name_or_path

    return make


def load(path: str, length: int) -> Loaded:
    config = recipe(f"model.name_or_path={path}", f"context_length={length}")
    pretrained = load_pretrained_config(config.model)
    rope_plan = plan_rope(pretrained, config.context_length, config.rope)
    model = load_model(config.model, pretrained, rope_plan)
    tokenizer, tokenizer_plan = load_tokenizer(config.tokenizer, config.model, pretrained)
    fit_model_to_tokenizer(model, tokenizer, tokenizer_plan)
    return model, tokenizer, rope_plan, tokenizer_plan


def test_the_scripts_defaults() -> None:
    config = recipe()
    assert config.model.name_or_path == "facebook/opt-125m"
    assert config.context_length == config.tokenizer.model_max_length == 512


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 500, 1000])
def test_rule_1_linear_rope_with_the_ceiling_of_the_ratio(
    checkpoint: Callable[[str], str], length: int
) -> None:
    model, _, plan, _ = load(checkpoint("llama"), length)
    parameters = model.config.rope_parameters
    if length > L0:
        assert parameters["rope_type"] == "linear"
        assert parameters["factor"] == plan.factor == float(math.ceil(length / L0))
    else:
        assert parameters["rope_type"] == "default" and plan.factor is None
    expected = torch.tensor([10_000 ** (-2 * i / 8) / (plan.factor or 1) for i in range(4)])
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_rule_1_leaves_opt_alone_within_its_table(checkpoint: Callable[[str], str]) -> None:
    model, _, plan, _ = load(checkpoint("opt"), 64)
    assert not plan.changed and model.config.max_position_embeddings == 64


def test_rule_2_the_cache_is_off_in_training_and_on_in_what_is_saved(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    for family in ("llama", "opt"):
        model, tokenizer, rope_plan, tokenizer_plan = load(checkpoint(family), 64)
        assert model.config.use_cache is False
        save_for_serving(model, tokenizer, rope_plan, tokenizer_plan, tmp_path / family)
        assert json.loads((tmp_path / family / "config.json").read_text())["use_cache"] is True
        assert AutoModelForCausalLM.from_pretrained(tmp_path / family).config.use_cache is True


def test_rule_3_padding_is_on_the_right(checkpoint: Callable[[str], str]) -> None:
    _, tokenizer, _, _ = load(checkpoint("llama"), 64)
    assert tokenizer.padding_side == "right"
    short, long = tokenizer(["in", "in the end"], padding=True)["input_ids"]
    assert short[-1] == tokenizer.pad_token_id != long[-1]


def test_rule_4_the_slow_tokenizer_is_the_sentencepiece_library(
    checkpoint: Callable[[str], str], real_text: list[str]
) -> None:
    path = checkpoint("llama")
    _, tokenizer, _, plan = load(path, 64)
    library = SentencePieceProcessor(model_file=f"{path}/tokenizer.model")
    assert "sentencepiece" in plan.backend
    for text in real_text[:50]:
        assert tokenizer(text)["input_ids"] == [library.bos_id(), *library.encode(text)]


def test_rule_5_the_pad_token_is_the_unknown_token(checkpoint: Callable[[str], str]) -> None:
    for family in ("llama", "opt"):
        model, tokenizer, _, _ = load(checkpoint(family), 64)
        assert tokenizer.pad_token == tokenizer.unk_token == "<unk>"
        assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.unk_token_id


def test_rule_6_model_max_length_is_the_wanted_length(checkpoint: Callable[[str], str]) -> None:
    _, tokenizer, _, _ = load(checkpoint("llama"), 500)
    assert tokenizer.model_max_length == 500


SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CONVERSATIONS = [
    ["What does argparse do?", "It reads the command line and builds a namespace of values."],
    ["Name a module.", "textwrap", "And what is in it?", "Functions that wrap   paragraphs."],
    ["How is JSON decoded?", "The scanner calls itself for every nested value it finds."],
    # Pieces that do not take the space before them: a digit, a character of bytes, a new line.
    ["How many are there?", "12 of them.", "And in words?", "\u4e5d\u3002", "So?", "\n- one"],
    ["Is this a question?", "It is.", "Was that an answer?", "It was.", "Good.", "It is good."],
]


def fastchat_prompt(turns: list[str]) -> str:
    """FastChat's Vicuna v1.1 prompt: the system sentence, and </s> behind each answer."""
    text = SYSTEM + " "
    for index, turn in enumerate(turns):
        text += f"USER: {turn} " if index % 2 == 0 else f"ASSISTANT: {turn}</s>"
    return text


class SlowTokenizer:
    """What transformers v4's slow Llama tokenizer does, on the sentencepiece library.

    Special tokens split the text. Each stretch between them is given to the library; with
    legacy=false the stretches behind a special token get no space in front of them.
    """

    def __init__(self, model_file: str, *, legacy: bool) -> None:
        self.library = SentencePieceProcessor(model_file=model_file)
        self.legacy = legacy

    def __call__(self, text: str) -> list[int]:
        ids = [self.library.bos_id()]
        for number, stretch in enumerate(text.split("</s>")):
            if number:
                ids.append(self.library.eos_id())
            if stretch and (self.legacy or number == 0):
                ids += self.library.encode(stretch)
            elif stretch:  # a mark that no text has takes the space, and goes again
                marked = self.library.encode("\n" + stretch)
                ids += marked[len(self.library.encode("\n")) :]
        return ids


def fastchat_labels(text: str, tokenizer: SlowTokenizer) -> tuple[list[int], list[int]]:
    """Ids and labels by FastChat's rule: lengths of tokenised parts, summed up and corrected.

    The text is cut behind each answer; a cut's question is as long as its own tokens less two (BOS,
    and the lone space at its end); with legacy=false one less for every cut but the first.
    """
    ids = tokenizer(text)
    labels, at = [-100] * len(ids), 1
    for number, cut in enumerate(filter(None, text.split("</s>"))):
        length = len(tokenizer(cut + "</s>")) - 1
        question = len(tokenizer(cut.split(" ASSISTANT: ")[0] + " ASSISTANT: ")) - 2
        correction = 1 if number and not tokenizer.legacy else 0
        correction = 0 if number == 0 else correction
        start, stop = at + question - correction, at + length - correction
        labels[start:stop] = ids[start:stop]
        at = stop
    assert at == len(ids), "FastChat would mask the whole conversation"
    return ids, labels


@pytest.mark.parametrize("legacy", [True, False])
def test_ids_labels_and_the_losses_of_three_steps_are_fastchat_s(
    checkpoint: Callable[[str], str], legacy: bool
) -> None:
    path = checkpoint("llama")
    config = recipe(f"model.name_or_path={path}", "context_length=256",
                    f"tokenizer.legacy={str(legacy).lower()}")  # fmt: skip
    tokenizer, plan = load_tokenizer(
        config.tokenizer, config.model, load_pretrained_config(config.model)
    )
    slow = SlowTokenizer(f"{path}/tokenizer.model", legacy=legacy)
    theirs = [fastchat_labels(fastchat_prompt(turns), slow) for turns in CONVERSATIONS]
    ours = []
    renderer, chat = Renderer(tokenizer), ChatTokenizer(tokenizer)
    for turns in CONVERSATIONS:
        roles = ("user", "assistant") * (len(turns) // 2)
        messages = [Message(role, turn) for role, turn in zip(roles, turns, strict=True)]
        [example] = chat.tokenize(renderer.render(Conversation(messages)))
        assert isinstance(example, TokenizedExample)
        labels = [-100] * len(example.input_ids)
        for span in example.spans:
            labels[span.start : span.stop] = example.input_ids[span.start : span.stop]
        ours.append((example.input_ids, labels))
        # And so does whoever uses what is saved.
        given = [message.as_template_input() for message in messages]
        encoded = tokenizer.apply_chat_template(given, tokenize=True, return_dict=False)
        assert encoded == example.input_ids
    assert ours == theirs
    found = losses(path, ours)
    assert found == losses(path, theirs)
    assert found[0] > found[1] > found[2]
    beginning = tokenizer.convert_ids_to_tokens(ours[0][0][:2])
    assert beginning[0] == "<s>" and beginning[1].startswith("▁A"), beginning
    assert not plan.warnings or "legacy" in plan.warnings[0]


def losses(path: str, examples: list[tuple[list[int], list[int]]]) -> list[float]:
    """Of three steps of AdamW from the checkpoint, over all conversations at once."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(path).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([i + [0] * (longest - len(i)) for i, _ in examples])
    labels = torch.tensor([n + [-100] * (longest - len(n)) for _, n in examples])
    found = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", ["chatml", "llama2", "mistral", "vicuna", "zephyr", "alpaca"])
@pytest.mark.parametrize("legacy", [True, False])
def test_every_named_format_begins_as_plain_text_does(
    checkpoint: Callable[[str], str], name: str, legacy: bool
) -> None:
    config = recipe(f"model.name_or_path={checkpoint('llama')}", "context_length=256",
                    f"tokenizer.legacy={str(legacy).lower()}",
                    f"tokenizer.chat_template={name}")  # fmt: skip
    tokenizer, _ = load_tokenizer(
        config.tokenizer, config.model, load_pretrained_config(config.model)
    )
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    for messages in (turns, [{"role": "system", "content": " be kind"}, *turns]):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert text.startswith("<s>")
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        # The text behind BOS, and the one space that may stand there for the beginning.
        plain = [tokenizer(text[3:])["input_ids"], tokenizer(text[4:])["input_ids"]]
        assert ids in plain and (ids == plain[0] or text[3] == " ")


def test_what_it_saves_answers_alike_for_plain_transformers(
    checkpoint: Callable[[str], str], real_text: list[str], tmp_path: Path
) -> None:
    model, tokenizer, rope_plan, tokenizer_plan = load(checkpoint("llama"), 200)
    save_for_serving(model, tokenizer, rope_plan, tokenizer_plan, tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in real_text[:20]:
        ids = tokenizer(text, truncation=True, return_tensors="pt")["input_ids"]
        assert torch.equal(ids[0], again(text, return_tensors="pt")["input_ids"][0][:200])
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, reloaded(ids, use_cache=False).logits)
