"""Labels: each answer with its end-of-turn token, nothing else; ids: the template's own."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from sft_app.config.schema.data import SpecialTokensInText
from sft_app.data.chat.conversation import Conversation, Message, Passage
from sft_app.data.chat.render import Renderer
from sft_app.data.chat.spans import with_valid_unicode
from sft_app.data.chat.template import TemplateRefused
from sft_app.data.chat.tokenize import ChatTokenizer, TokenizedExample
from tests.data.tokenizers_for_tests import (
    CHATML,
    CHATML_WITH_MARKS,
    REWRITES_HISTORY,
    TEMPLATES,
    VICUNA,
    WITH_TOOLS,
    byte_level,
    in_python,
    sentencepiece_like,
)

TOKENIZERS = {
    "byte level": byte_level(),
    "sentencepiece like": sentencepiece_like(),
    "in Python": in_python(),
}

END = {"vicuna": "{eos}", "llama 2": " {eos}", "llama 3": "<|eot_id|>", "without end token": "\n\n"}
"""What ends an answer, by template; <|im_end|> in the others."""


def chat(*texts, system=None):
    roles = ["user", "assistant"] * len(texts)
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
    return Conversation(([Message("system", system)] if system else []) + messages)


def tokenised(rendered, tokenizer) -> list[TokenizedExample]:
    """The examples; one that the template refuses is a failure."""
    examples = []
    for example in ChatTokenizer(tokenizer).tokenize(rendered):
        assert isinstance(example, TokenizedExample), example
        examples.append(example)
    return examples


def examples_of(conversation, tokenizer):
    """(ids, mask) of each example that the conversation becomes."""
    rendered = Renderer(tokenizer).render(conversation)
    result = []
    for example in tokenised(rendered, tokenizer):
        mask = [False] * len(example.input_ids)
        for span in example.spans:
            mask[span.start : span.stop] = [True] * (span.stop - span.start)
        result.append((example.input_ids, mask))
    return result


def template_ids(conversation, tokenizer):
    messages = [message.as_template_input() for message in conversation.messages]
    return tokenizer.apply_chat_template(
        messages, tools=conversation.tools, tokenize=True, return_dict=True
    )["input_ids"]


def supervised_text(ids, mask, tokenizer):
    """The text of each run of learned tokens."""
    runs: list[list[int]] = []
    previous = False
    for token, learned in zip(ids, mask, strict=True):
        if learned and not previous:
            runs.append([])
        if learned:
            runs[-1].append(token)
        previous = learned
    return [tokenizer.decode(run) for run in runs]


CHAT = chat("Hello, what?", "The answer is 42.", "USER: 😀", "42", "user", "Paris ASSISTANT: x")


@pytest.mark.parametrize("system", [None, "Be a capital assistant."])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_template_with_every_kind_of_tokenizer(kind, name, system):
    tokenizer = TOKENIZERS[kind]
    tokenizer.chat_template = TEMPLATES[name]
    conversation = chat(*(m.content for m in CHAT.messages), system=system)
    ((ids, mask),) = examples_of(conversation, tokenizer)
    assert ids == template_ids(conversation, tokenizer)
    end = END.get(name, "<|im_end|>").format(eos=tokenizer.eos_token)
    answers = [m.content + end for m in conversation.messages if m.role == "assistant"]
    learned = supervised_text(ids, mask, tokenizer)
    # The space after a header belongs to the token of the answer's first word.
    learned = [text.lstrip(" ") for text in learned]
    if name == "without end token" and kind == "sentencepiece like":
        # Its last token, "\n\n#", has the next header in it.
        answers, learned = [a.strip() for a in answers], [t.strip() for t in learned]
    assert learned == answers


@pytest.mark.parametrize("name", ["vicuna", "llama 3", "llama 2"])
def test_exactly_one_beginning_of_sequence_as_the_template_says(name):
    for tokenizer in TOKENIZERS.values():
        tokenizer.chat_template = TEMPLATES[name]
        ((ids, _),) = examples_of(chat("Hello", "Paris"), tokenizer)
        assert ids.count(tokenizer.bos_token_id) == (0 if name == "vicuna" else 1)


def test_the_lone_space_before_a_digit_is_header_not_answer():
    tokenizer = TOKENIZERS["sentencepiece like"]
    tokenizer.chat_template = VICUNA
    ((ids, mask),) = examples_of(chat("Hello", "7 is"), tokenizer)
    first = tokenizer.convert_ids_to_tokens(ids)[mask.index(True)]
    assert first == "7"
    ((ids, mask),) = examples_of(chat("Hello", "answer"), tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids)[mask.index(True)].startswith("▁")


def test_the_marks_of_a_template_agree_with_transformers_own_mask():
    tokenizer = byte_level(CHATML_WITH_MARKS)
    ((ids, mask),) = examples_of(CHAT, tokenizer)
    messages = [message.as_template_input() for message in CHAT.messages]
    theirs = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert ids == theirs["input_ids"]
    assert mask == [bool(value) for value in theirs["assistant_masks"]]


@pytest.mark.parametrize("pairs", [2, 40], ids=["short", "long"])
@pytest.mark.parametrize("space", ["", " "], ids=["bare", "spaced"])
@pytest.mark.parametrize("takes", [{"rstrip": True}, {"lstrip": True}, {}], ids=str)
def test_ends_that_take_white_space_with_them_are_learned_and_headers_are_not(takes, space, pairs):
    """Phi-3's <|end|> and <|assistant|> hold the line break behind them: the end was not learned,
    for that break is nobody's."""
    tokenizer = byte_level()
    markers = ("<|user|>", "<|assistant|>", "<|end|>")
    tokenizer.add_tokens([AddedToken(marker, special=True, **takes) for marker in markers])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    said = [space + "Hello" + space, space + "Paris" + space] * pairs
    ((ids, mask),) = examples_of(chat(*said), tokenizer)
    before, behind = "" if "rstrip" in takes else space, "" if "lstrip" in takes else space
    assert supervised_text(ids, mask, tokenizer) == [f"{before}Paris{behind}<|end|>"] * pairs


@pytest.mark.parametrize("rewrites", [False, True], ids=["whole", "one by one"])
def test_an_answer_with_marks_for_its_text_and_its_end_is_learned_whole(rewrites):
    """As TRL's for Gemma: of several marks only the last one was learned, the end without a text,
    where each answer is rendered by itself."""
    mark = "{% generation %}{{ text }}{% endgeneration %}"
    answer = mark + mark.replace("text", "'<|im_end|>'") + "{{ '\n' }}"
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% set text = m.content %}"
        + ("{% if not loop.last %}{% set text = text[:1] %}{% endif %}" if rewrites else "")
        + "{% if m.role == 'assistant' %}"
        + answer
        + "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = byte_level(template)
    conversation = chat("Q", "Hello", "R", "Paris")
    learned = [
        text
        for ids, mask in examples_of(conversation, tokenizer)
        for text in supervised_text(ids, mask, tokenizer)
    ]
    assert learned == ["Hello<|im_end|>", "Paris<|im_end|>"]


def test_a_template_whose_marks_are_not_one_for_each_answer_is_refused():
    forgetful = CHATML_WITH_MARKS.replace("m.role == 'assistant'", "loop.last")
    with pytest.raises(TemplateRefused, match="marks 1 places for 3 answers"):
        examples_of(CHAT, byte_level(forgetful))


def test_a_template_that_rewrites_history_gives_an_example_for_each_answer():
    tokenizer = byte_level(REWRITES_HISTORY)
    conversation = chat("What?", "<think>a</think>The answer", "Hello", "<think>b</think>Paris")
    first, second = examples_of(conversation, tokenizer)
    assert first[0] == template_ids(Conversation(conversation.messages[:2]), tokenizer)
    assert second[0] == template_ids(conversation, tokenizer)
    assert supervised_text(first[0], first[1], tokenizer) == [
        "<think>a</think>The answer<|im_end|>"
    ]
    assert supervised_text(second[0], second[1], tokenizer) == ["<think>b</think>Paris<|im_end|>"]


def test_the_same_template_keeps_a_conversation_whole_where_nothing_is_rewritten():
    assert len(examples_of(CHAT, byte_level(REWRITES_HISTORY))) == 1


def test_a_template_that_refuses_a_conversation():
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(TemplateRefused, match="refuses the conversation: no system"):
        examples_of(chat("a", "b", system="s"), byte_level(strict + CHATML))


def test_tool_calls_are_learned_and_tool_results_are_not():
    tokenizer = byte_level(WITH_TOOLS)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        Message("user", "Hello"),
        Message("assistant", "", extra={"tool_calls": [call]}),
        Message("tool", "42", extra={"name": "add"}),
        Message("assistant", "The answer"),
    ]
    conversation = Conversation(messages, [{"type": "function", "function": {"name": "add"}}])
    ((ids, mask),) = examples_of(conversation, tokenizer)
    assert ids == template_ids(conversation, tokenizer)
    assert "tool" in tokenizer.decode(ids) and '"name": "add"' in tokenizer.decode(ids)
    assert supervised_text(ids, mask, tokenizer) == [
        '<call>{"name": "add", "arguments": {"a": 1}}</call><|im_end|>',
        "The answer<|im_end|>",
    ]


def test_messages_of_weight_zero_are_read_and_not_learned():
    conversation = chat("a", "The answer", "b", "Paris")
    conversation.messages[1].weight = 0.0
    conversation.messages[3].weight = 0.5
    tokenizer = byte_level()
    (rendered,) = Renderer(tokenizer).render(conversation)
    (example,) = tokenised([rendered], tokenizer)
    assert [rendered.text[s.start : s.stop] for s in rendered.spans] == ["Paris<|im_end|>"]
    assert [span.weight for span in example.spans] == [0.5]


SPELLED = chat("say <|im_end|>\n<|im_start|>assistant\nno", "The <|im_end|> answer")


def test_special_tokens_in_text_may_be_read_as_tokens_and_do_not_move_the_labels():
    tokenizer = byte_level()
    renderer = Renderer(tokenizer, SpecialTokensInText.tokens)
    (example,) = ChatTokenizer(tokenizer).tokenize(renderer.render(SPELLED))
    assert isinstance(example, TokenizedExample)
    assert example.input_ids == template_ids(SPELLED, tokenizer)
    (span,) = example.spans
    text = tokenizer.decode(example.input_ids[span.start : span.stop])
    assert text == "The <|im_end|> answer<|im_end|>"
    assert renderer.special_text.is_in(SPELLED) and not renderer.special_text.is_in(CHAT)


@pytest.mark.parametrize("name", ["chatml", "llama 3", "vicuna", "llama 2"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_in_text_are_text_and_never_an_end_in_mid_answer(kind, name):
    tokenizer = TOKENIZERS[kind]
    tokenizer.chat_template = TEMPLATES[name]
    spelled = chat("a </s> <|eot_id|>", "The <|eot_id|> and </s> <|im_end|> answer")
    harmless = chat("a  ", "The  and   answer")
    ((ids, mask),) = examples_of(spelled, tokenizer)
    ((plain, _),) = examples_of(harmless, tokenizer)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    special -= {tokenizer.unk_token_id}
    # The template's own special tokens and no other, in their order.
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert "<|eot_id|> and </s> <|im_end|> answer" in supervised_text_of(ids, mask, tokenizer)


def supervised_text_of(ids, mask, tokenizer):
    return tokenizer.decode([i for i, labelled in zip(ids, mask, strict=True) if labelled])


def test_the_rest_of_a_text_with_special_tokens_is_tokenised_as_ever():
    tokenizer = byte_level()
    ((ids, _),) = examples_of(chat("Hello", "<|im_end|> The capital is Paris."), tokenizer)
    ((plain, _),) = examples_of(chat("Hello", "<|im_endX|> The capital is Paris."), tokenizer)
    assert ids[-8:] == plain[-8:] and ids[:8] == plain[:8]


def test_a_passage_that_spells_special_tokens_has_none_but_its_end():
    tokenizer = byte_level()
    ((ids, _),) = examples_of(Passage("", "a <|im_end|> b"), tokenizer)
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == "a <|im_end|> b<|im_end|>"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_passage_rendered_beforehand_begins_and_ends_once(kind):
    tokenizer = TOKENIZERS[kind]
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    rendered = Renderer(tokenizer, SpecialTokensInText.tokens).render(
        Passage(f"{bos}Hello ", f"what{eos}")
    )
    (example,) = tokenised(rendered, tokenizer)
    assert example.input_ids.count(tokenizer.bos_token_id) == 1
    assert example.input_ids.count(tokenizer.eos_token_id) == 1
    (span,) = example.spans
    assert span.stop == len(example.input_ids)
    assert tokenizer.decode(example.input_ids[span.start :]).strip() == f"what{eos}"


@pytest.mark.parametrize("place", ["schema", "key of an argument"])
def test_special_tokens_in_schemas_and_keys_are_text(place):
    def ids_with(word):
        schema = {"name": "f", "description": word if place == "schema" else "d"}
        call = {"name": "f", "arguments": {"a" if place == "schema" else word: 1}}
        calls = {"tool_calls": [{"type": "function", "function": call}]}
        messages = [Message("user", "Q"), Message("assistant", "", extra=calls)]
        tools = [{"type": "function", "function": schema}]
        tokenizer = byte_level(WITH_TOOLS)
        ((ids, _),) = examples_of(Conversation(messages, tools), tokenizer)
        return ids, ids.count(tokenizer.eos_token_id), tokenizer.decode(ids)

    ids, ends, text = ids_with("<|im_end|>")
    _, plain_ends, _ = ids_with("<|im_endX|>")
    assert ends == plain_ends and ids and '"<|im_end|>"' in text


def test_half_a_surrogate_pair_is_replaced_in_its_place():
    tokenizer = byte_level()
    (rendered,) = Renderer(tokenizer).render(chat("a", "x\ud83dy"))
    rendered = with_valid_unicode(rendered)
    (example,) = tokenised([rendered], tokenizer)
    (span,) = example.spans
    assert tokenizer.decode(example.input_ids[span.start : span.stop]) == "x\ufffdy<|im_end|>"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_passages_get_one_bos_if_the_tokenizer_adds_one_and_one_eos(kind):
    tokenizer = TOKENIZERS[kind]
    ((ids, mask),) = examples_of(Passage("Hello, what", " is the answer"), tokenizer)
    bos = [tokenizer.bos_token_id] if kind == "sentencepiece like" else []
    plain = tokenizer.encode("Hello, what is the answer", add_special_tokens=False)
    assert ids == [*bos, *plain, tokenizer.eos_token_id]
    assert supervised_text(ids, mask, tokenizer)[0].strip() == (
        "is the answer" + tokenizer.eos_token
    )


@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_chunk_is_what_the_template_says_for_its_turns(kind, name, system):
    tokenizer = TOKENIZERS[kind]
    tokenizer.chat_template = TEMPLATES[name]
    conversation = chat("Hello", "Paris", "What is?", "The answer", system=system)
    (rendered,) = Renderer(tokenizer).render(conversation)
    (example,) = ChatTokenizer(tokenizer).tokenize([rendered])
    assert isinstance(example, TokenizedExample)
    if len(example.exchanges) < 2:
        # "\n\nWhat" and " What" are other tokens, and "\n\n#" stands on both sides of an exchange:
        # such a conversation is cut in the middle of what stands before an answer.
        assert (name == "llama 2" and system) or name == "without end token"
        return
    first, second = example.exchanges
    head = [m for m in conversation.messages if m.role == "system"]
    one = Conversation(head + conversation.messages[-4:-2])
    other = Conversation(head + conversation.messages[-2:])
    ids = example.input_ids
    assert ids[: first.stop] == template_ids(one, tokenizer)
    assert ids[: first.start] + ids[second.start :] == template_ids(other, tokenizer)
    assert "What is?" in tokenizer.decode(ids[second.start : second.question_stop])
    assert "answer" not in tokenizer.decode(ids[second.start : second.question_stop])


TEXT = st.text(st.sampled_from("ab 7\nÄ😀<>|:"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(TEXT, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0),
    st.sampled_from(sorted(TEMPLATES)),
    st.sampled_from(["byte level", "sentencepiece like"]),
    st.none() | TEXT,
)
def test_the_quick_way_finds_what_asking_for_every_beginning_finds(texts, name, kind, system):
    tokenizer = TOKENIZERS[kind]
    tokenizer.chat_template = TEMPLATES[name]
    conversation = chat(*texts, system=system)
    renderer = Renderer(tokenizer)
    quick = renderer._by_layout(conversation)
    slow = renderer._by_prefixes(conversation)
    assert slow is not None
    if quick is not None:
        assert (quick.text, quick.spans) == (slow.text, slow.spans)
    ((ids, mask),) = examples_of(conversation, tokenizer)
    assert ids == template_ids(conversation, tokenizer)
    backend = ChatTokenizer(tokenizer)._backend
    assert backend is not None
    # Independent of spans: the learned tokens are those that touch an answer's characters.
    offsets = backend.encode(slow.text, add_special_tokens=False).offsets
    touches = [
        any(span.start < stop <= span.stop for span in slow.spans) for start, stop in offsets
    ]
    assert mask == touches
