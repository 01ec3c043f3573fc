"""A chat: commands, history files that training reads, and a context that is full."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sft_app.chat import main
from sft_app.data.chat.special_text import special_tokens
from sft_app.data.read.read_files import read_file
from sft_app.data.read.record import Record
from sft_app.serving.dialogue.answer_parts import message_of
from sft_app.serving.dialogue.dialogue_turns import DialogueTurns, prompt_ids
from sft_app.serving.dialogue.session import Session
from sft_app.serving.dialogue.speaker import Sampling, Speaker

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speaker(tiny_model: Path) -> Speaker:
    return Speaker(tiny_model, CPU)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def session(speaker: Speaker, said: list[str]) -> Session:
    return Session([speaker], Sampling(temperature=0, max_new_tokens=5), said.append)


def test_an_answer_comes_in_pieces_and_counts_what_is_used(
    session: Session, said: list[str]
) -> None:
    assert session.take("Hi")
    (conversation,) = session.conversations
    assert [turn["role"] for turn in conversation.messages] == ["user", "assistant"]
    assert "of 64 tokens" in said[-1]
    assert session.speakers[0].answer_length <= 5


def test_an_answer_that_its_limit_cuts_off_says_so(speaker: Speaker, said: list[str]) -> None:
    """A random model says no end by itself; one whose every token is an end does at once."""
    session = Session([speaker], Sampling(temperature=0, max_new_tokens=3), said.append)
    session.take("Hi")
    assert "the answer ends here, after --max-new-tokens=3" in said[-1]
    own = speaker.model.generation_config.eos_token_id
    speaker.model.generation_config.eos_token_id = list(range(len(speaker.tokenizer)))
    try:
        session.take("Hi")
    finally:
        speaker.model.generation_config.eos_token_id = own
    assert "ends here" not in said[-1]


def test_a_saved_conversation_comes_back_whole(tmp_path: Path) -> None:
    """Also with U+2028, which ends a line for Unicode and none of JSON Lines, and other keys."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": "a\u2028b"},
             {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]  # fmt: skip
    DialogueTurns(turns).save(tmp_path / "chat.jsonl")
    loaded = DialogueTurns()
    loaded.load(tmp_path / "chat.jsonl")
    assert loaded.messages == turns


def test_the_same_seed_says_the_same(speaker: Speaker) -> None:
    conversation = DialogueTurns([{"role": "user", "content": "a"}])
    hot = Sampling(temperature=5.0, max_new_tokens=8, seed=1)
    assert list(speaker.answer(conversation, hot)) == list(speaker.answer(conversation, hot))


def test_commands(session: Session, said: list[str], tmp_path: Path) -> None:
    session.take("/system Be brief.")
    session.take("Hi")
    session.take(f"/save {tmp_path / 'chat.jsonl'}")
    (conversation,) = session.conversations
    before = [dict(turn) for turn in conversation.messages]
    session.take("/reset")
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    session.take(f"/load {tmp_path / 'chat.jsonl'}")
    assert conversation.messages == before
    session.take("/system")
    assert conversation.messages[0]["role"] == "user"
    session.take("/load /no/such/file")
    assert "No such file" in said[-1]
    session.take("/nonsense")
    assert "not known" in said[-1]
    assert not session.take("/exit")
    (record,) = read_file(tmp_path / "chat.jsonl")
    assert isinstance(record, Record) and record.value["messages"] == before


def test_a_full_context_drops_the_oldest_and_says_so(session: Session, said: list[str]) -> None:
    for _ in range(3):
        session.take("Hi!")
    assert any("the oldest 1 question" in text for text in said)
    speaker = session.speakers[0]
    assert speaker.prompt_length + speaker.answer_length <= 64
    session.take("x" * 80)
    assert "ask a shorter one" in said[-1]
    assert session.conversations[0].messages[-1]["role"] == "assistant", "it was not kept"


def test_two_models_answer_side_by_side(speaker: Speaker, said: list[str]) -> None:
    session = Session([speaker, speaker], Sampling(temperature=0, max_new_tokens=2), said.append)
    session.take("Hi")
    assert said.count(f"[{speaker.name}]\n") == 2
    assert all(len(c.messages) == 2 for c in session.conversations)


def test_an_interrupted_answer_is_kept_as_far_as_it_came(
    session: Session, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> Iterator[str]:
        session.speakers[0].written = "Hel"
        yield "Hel"
        raise KeyboardInterrupt

    monkeypatch.setattr(session.speakers[0], "answer", interrupted)
    session.take("Hi")
    assert session.conversations[0].messages[-1]["content"] == "Hel"


def test_a_question_that_the_template_refuses_is_forgotten_and_the_chat_goes_on(
    tiny_model: Path, said: list[str]
) -> None:
    """Gemma's template knows no system turn."""
    speaker = Speaker(tiny_model, CPU)
    speaker.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role\nnot supported') }}"
        "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    session = Session([speaker], Sampling(temperature=0, max_new_tokens=2), said.append)
    session.take("/system Be brief.")
    assert not session.ask("Hi")
    assert said[-1].endswith("refuses this conversation: System role not supported\n")
    assert [turn["role"] for turn in session.conversations[0].messages] == ["system"]
    session.take("/system")
    assert session.ask("Hi")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"messages": null}', '{"messages": ["a"]}', '{"messages": [{"role": "user"}]}',
     '{"messages": [{"role": "assistant", "content": null}]}'],
)  # fmt: skip
def test_a_file_without_a_conversation_is_refused_and_what_was_said_is_kept(
    session: Session, said: list[str], tmp_path: Path, text: str
) -> None:
    session.take("/system Be brief.")
    (tmp_path / "chat.jsonl").write_text(text)
    session.take(f"/load {tmp_path / 'chat.jsonl'}")
    assert "chat.jsonl holds" in said[-1]
    assert session.conversations[0].messages == [{"role": "system", "content": "Be brief."}]


def test_an_adapter_speaks_as_the_model_that_it_was_trained_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    config = AutoConfig.from_pretrained(tiny_model)
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    base = AutoModelForCausalLM.from_pretrained(tiny_model, config=config)
    lora = peft.LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, lora)
    model.save_pretrained(tmp_path / "adapter")
    config.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "merged")
    conversation = DialogueTurns([{"role": "user", "content": "Hi there"}])
    cold = Sampling(temperature=0, max_new_tokens=12)
    said = ["".join(Speaker(tmp_path / n, CPU).answer(conversation, cold))
            for n in ("adapter", "merged")]  # fmt: skip
    assert said[0] == said[1] != "".join(Speaker(tiny_model, CPU).answer(conversation, cold))


def test_an_adapter_that_lacks_a_matrix_does_not_let_its_base_answer(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEFT warns, and leaves what it does not find as it was made: without any effect."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    lora = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, lora).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    del weights["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(weights, tmp_path / "adapter_model.safetensors")
    assert main([str(tmp_path), "--prompt", "Hi"]) == 2
    assert "would be left out (missing: base_model.model.model.layers.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_return_sequences": 2, "do_sample": True},
        {"return_dict_in_generate": True},
        {"stop_strings": ["never said"]},
    ],
    ids=["beams", "several", "dictionary", "stop strings"],
)
def test_a_model_whose_generation_config_means_another_kind_of_answer_answers(
    speaker: Speaker, tiny_model: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    conversation = DialogueTurns([{"role": "user", "content": "Hi there"}])
    cold = Sampling(temperature=0, max_new_tokens=5)
    answers = ["".join(s.answer(conversation, cold)) for s in (speaker, Speaker(tmp_path, CPU))]
    assert answers[0] == answers[1]


def test_code_that_a_model_carries_runs_when_it_is_trusted_and_nobody_is_asked(
    model_with_code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = [str(model_with_code), "--prompt", "Hi", "--max-new-tokens", "2"]
    assert main(question) == 2
    told = capsys.readouterr()
    assert "needs Python code of its own" in told.err and "--trust-remote-code" in told.err
    assert "[y/N]" not in told.out
    assert main([*question, "--trust-remote-code"]) == 0


@pytest.mark.parametrize(
    ("rope", "stated", "length"),
    [
        ({"rope_type": "default"}, 10**6, 64),
        ({"rope_type": "default"}, 48, 48),
        ({"rope_type": "linear", "factor": 4.0}, 10**30, 256),
    ],
    ids=["longer", "shorter", "none"],
)
def test_the_context_is_what_the_model_takes_whatever_its_tokenizer_states(
    tiny_model: Path, tmp_path: Path, rope: dict[str, Any], stated: int, length: int
) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    for name, changed in (
        ("config.json", {"rope_parameters": rope | {"rope_theta": 10000.0}}),
        ("tokenizer_config.json", {"model_max_length": stated}),
    ):
        settings = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(settings | changed))
    assert Speaker(tmp_path, CPU).context_length == length


def test_a_base_with_a_sentencepiece_model_alone_reads_what_it_was_trained_on(
    tiny_model: Path, tmp_path: Path
) -> None:
    """As transformers 5 builds it, runs of spaces have other ids."""
    sentencepiece = pytest.importorskip("sentencepiece")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_model / name, tmp_path)
    text = "\n".join(f"the quick brown fox  jumps   {i}" for i in range(400))
    (tmp_path / "text.txt").write_text(text)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=320,
        model_type="bpe", byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    question = "the quick   brown    fox"
    ids = prompt_ids(
        DialogueTurns([{"role": "user", "content": question}]), Speaker(tmp_path, CPU).tokenizer
    )
    assert ids == [model.bos_id(), *model.encode(question)]


def damage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"damaged")


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_weights, "cannot be loaded: SafetensorError"),
        (drop_a_weight, "lacks weights (model.layers.1.mlp.up_proj.weight)"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded: OSError"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded: "),
        (lambda folder: (folder / "config.json").unlink(), "holds no saved model"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "and an adapter"),
    ],
)
def test_a_broken_model_is_refused_in_a_sentence(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object], told: str,
) -> None:  # fmt: skip
    shutil.copytree(tiny_model, tmp_path / "model")
    damage(tmp_path / "model")
    assert main([str(tmp_path), "--prompt", "Hi"]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("sft-chat")]
    assert told in line


def test_the_prompt_has_one_begin_token(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = prompt_ids(DialogueTurns([{"role": "user", "content": "Hi"}]), tokenizer)
    assert tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("written", "thought", "said"),
    [
        ("Hello</s>", None, "Hello"),
        ("<think>\nT\n</think>\n\nHello</s>", None, "<think>\nT\n</think>\n\nHello"),
        (
            "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>final<|message|>"
            "Hello<|return|>",
            "T",
            "Hello",
        ),
        ("<|channel|>analysis<|message|>T and", "T and", ""),  # its limit came first
        ("<|channel>thought\nT<channel|>Hello<turn|>", "T", "Hello"),
        ("<|START_THINKING|>T<|END_THINKING|><|START_RESPONSE|>Hello", "T", "Hello"),
    ],
    ids=["plain", "qwen", "gpt-oss", "cut off", "gemma 4", "command a"],
)
def test_a_thought_is_no_part_of_what_was_said(
    written: str, thought: str | None, said: str
) -> None:
    """With its marks gone, it was the beginning of the answer in the next prompt."""
    special = re.findall(r"<\|[^<>]*?>|<\w+\|>|</s>", written)
    message = message_of(written, special)
    assert (message["content"], message.get("reasoning_content")) == (said, thought)


def test_an_answer_is_told_and_remembered_in_its_parts(
    tiny_model: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = Speaker(tiny_model, CPU)
    marks = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>"]
    speaker.tokenizer.add_special_tokens({"additional_special_tokens": marks})
    speaker.special = special_tokens(speaker.tokenizer)
    answer = (
        "<|channel|>analysis<|message|>Why<|end|><|start|>assistant<|channel|>final<|message|>So"
    )
    ids = speaker.tokenizer(f"{answer}<|return|>", add_special_tokens=False)["input_ids"]

    def generate(input_ids: Any, streamer: Any, **options: Any) -> Any:
        streamer.put(input_ids)
        for number in ids:
            streamer.put(torch.tensor([number]))
        streamer.end()
        return torch.cat([input_ids, torch.tensor([ids])], dim=1)

    monkeypatch.setattr(speaker.model, "generate", generate)
    monkeypatch.setattr(speaker.tokenizer, "model_max_length", 4096)
    session = Session([speaker], Sampling(temperature=0), said.append)
    assert session.take("Hi")
    *_, last = session.conversations[0].messages
    assert last == {"role": "assistant", "content": "So", "reasoning_content": "Why"}
    assert "<|" not in "".join(said) and "Why" in "".join(said)
