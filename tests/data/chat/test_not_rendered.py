"""What a conversation says stands in the text that is trained on, or the record is a bad one."""

import pytest

from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.render import NotRendered, Renderer
from sft_app.data.chat.template import TemplateRefused
from tests.data.templates_of_families import (
    BEGINS_WITH_A_THOUGHT,
    DROPS_THOUGHTS,
    SYSTEM_WITH_LAST_QUESTION,
    THINKS,
)
from tests.data.tokenizers_for_tests import (
    CHATML,
    LLAMA3,
    VICUNA,
    WITH_TOOLS,
    byte_level,
    with_template,
)

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city"}}]


def call(name="weather", **arguments):
    function = {"name": name, "arguments": arguments or {"city": "Oslo"}}
    return {"id": "abcdef123", "type": "function", "function": function}


def with_tools(result="7 degrees", tools=TOOLS):
    messages = [
        Message("user", "How warm?"),
        Message("assistant", "", extra={"tool_calls": [call()]}),
        Message("tool", result, extra={"name": "weather"}),
        Message("assistant", "It is 7."),
    ]
    return Conversation(messages, tools)


def rendered(template, conversation, variables=None):
    return Renderer(with_template(template), variables=variables).render(conversation)


def supervised(rendering):
    return [rendering.text[span.start : span.stop] for span in rendering.spans]


def kinds_left_out(template, conversation):
    with pytest.raises(NotRendered) as found:
        rendered(template, conversation)
    return set(found.value.kinds)


@pytest.mark.parametrize(
    ("template", "kinds"),
    [
        (CHATML, {"tools", "tool_calls"}),
        (VICUNA, {"tools", "tool_calls", "tool_result"}),
        (WITH_TOOLS, None),
        (SYSTEM_WITH_LAST_QUESTION, None),
        (THINKS, None),
    ],
    ids=["chatml", "vicuna", "with tools", "mistral", "thinks"],
)
def test_tools_calls_and_results(template, kinds):
    if kinds is None:
        assert rendered(template, with_tools())
    else:
        assert kinds_left_out(template, with_tools()) == kinds


def test_a_tool_without_its_parameters_is_left_out():
    """What stands there would teach calls with arguments that nobody has told the model of."""
    properties = {"city": {"type": "string"}, "day": {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    function = {"name": "weather", "description": "of a city", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    assert rendered(WITH_TOOLS, with_tools(tools=tools))
    required_alone = WITH_TOOLS.replace(
        "(tools | tojson)",
        "tools[0].function.name + tools[0].function.description"
        " + tools[0].function.parameters.required[0]",
    )
    assert kinds_left_out(required_alone, with_tools(tools=tools)) == {"tools"}
    del properties["day"]
    assert rendered(required_alone, with_tools(tools=tools))


def test_short_texts_that_stand_in_the_header_by_chance_are_missed_as_well():
    conversation = Conversation(
        [Message("user", "a"), Message("assistant", "", extra={"tool_calls": [call("s", n="t")]})]
    )
    assert kinds_left_out(CHATML, conversation) == {"tool_calls"}


def test_arguments_are_looked_for_at_every_depth():
    names_only = CHATML.replace(
        "m.content +", "m.content + ((m.tool_calls[0].function.name) if m.tool_calls else '') +"
    )
    messages = [
        Message("user", "Q"),
        Message("assistant", "", extra={"tool_calls": [call(a={"b": [{"c": "deep"}]})]}),
    ]
    assert kinds_left_out(names_only, Conversation(messages)) == {"tool_calls"}


@pytest.mark.parametrize("template", [CHATML, VICUNA, LLAMA3], ids=["chatml", "vicuna", "llama 3"])
def test_reasoning_that_the_template_does_not_know(template):
    answer = Message("assistant", "A", extra={"reasoning_content": "THINK"})
    assert kinds_left_out(template, Conversation([Message("user", "Q"), answer])) == {"reasoning"}


def test_reasoning_that_the_template_knows_is_supervised():
    answer = Message("assistant", "A", extra={"reasoning_content": "THINK"})
    (only,) = rendered(THINKS, Conversation([Message("user", "Q"), answer]))
    assert supervised(only) == ["<think>\nTHINK\n</think>\n\nA<|im_end|>"]


def test_reasoning_inside_the_text_that_the_template_cuts_off():
    answer = Message("assistant", "<think>why</think>because")
    conversation = Conversation([Message("user", "Q"), answer])
    assert kinds_left_out(DROPS_THOUGHTS, conversation) == {"assistant"}
    (only,) = rendered(THINKS, conversation)
    assert supervised(only) == ["<think>\nwhy\n</think>\n\nbecause<|im_end|>"]


def test_reasoning_about_earlier_questions_may_be_left_out_where_it_is_not_learned():
    extra = {"reasoning_content": "earlier"}
    messages = [Message("user", "Q"), Message("assistant", "A", 0.0, extra)]
    messages += [Message("user", "R"), Message("assistant", "B")]
    renderer = Renderer(with_template(THINKS))
    (only,) = renderer.render(Conversation(messages))
    assert "earlier" not in only.text and set(renderer.noted) == {"history_reasoning"}
    messages[1].weight = 1.0
    first, _ = renderer.render(Conversation(messages))
    assert supervised(first) == ["<think>\nearlier\n</think>\n\nA<|im_end|>"]


@pytest.mark.parametrize("variables", [None, {"enable_thinking": False}])
def test_an_empty_thought_is_read_and_not_learned(variables):
    conversation = Conversation([Message("user", "Q"), Message("assistant", "A")])
    (only,) = rendered(THINKS, conversation, variables)
    assert "<think>\n\n</think>\n\nA" in only.text
    assert supervised(only) == ["A<|im_end|>"]


def test_the_prompt_that_a_user_would_send_stands_before_each_answer():
    messages = [Message("system", "SYSTEM")]
    messages += [Message("user", "Q1"), Message("assistant", "A1")]
    messages += [Message("user", "Q2"), Message("assistant", "A2")]
    tokenizer = byte_level(SYSTEM_WITH_LAST_QUESTION, eos="</s>")
    texts = Renderer(tokenizer).render(Conversation(messages))
    for number, (text, end) in enumerate(zip(texts, (2, 4), strict=True), start=1):
        asked = [m.as_template_input() for m in messages[:end]]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert text.text == f"{prompt} A{number}</s>" and "SYSTEM" in prompt
        assert supervised(text) == [f" A{number}</s>"]


def test_calls_with_a_header_of_their_own_are_supervised_with_it():
    tokenizer = byte_level(SYSTEM_WITH_LAST_QUESTION, eos="</s>")
    (only,) = Renderer(tokenizer).render(with_tools())
    calls = '[CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]</s>'
    assert supervised(only) == [calls, "It is 7.</s>"]
    conversation = with_tools()
    conversation.messages.insert(0, Message("system", "SYSTEM"))
    first, _ = Renderer(tokenizer).render(conversation)
    assert supervised(first) == [calls] and "SYSTEM\n\nHow warm?" in first.text


@pytest.mark.parametrize("template", [LLAMA3, THINKS], ids=["llama 3", "thinks"])
def test_an_empty_result_of_a_tool_stays_a_turn_before_the_answer(template):
    conversation = with_tools(result="", tools=None)
    conversation.messages[1].extra = {}
    conversation.messages[1].content = "one moment"
    texts = rendered(template, conversation)
    assert any("tool" in text.text for text in texts)
    assert "It is 7." in supervised(texts[-1])[-1]


def test_a_template_whose_prompt_opens_a_thought_is_refused_with_a_way_out():
    conversation = Conversation([Message("user", "Q"), Message("assistant", "A")])
    with pytest.raises(TemplateRefused, match=r"tokenizer\.chat_template=FILE\.jinja"):
        rendered(BEGINS_WITH_A_THOUGHT, conversation)


def test_joined_answers_carry_their_own_weights_in_the_text():
    answer = Message("assistant", "The capital\n\nsecond", 1.0, earlier=((11, 0.0), (13, 0.0)))
    for template in (CHATML, VICUNA, THINKS):
        (only,) = rendered(template, Conversation([Message("user", "Q"), answer]))
        (text,) = supervised(only)
        assert text.startswith("second") and "capital" not in text


def test_where_nothing_is_supervised_nothing_is_called_left_out():
    messages = [Message("system", "S"), Message("user", "Q"), Message("assistant", "A", 0.0)]
    (whole,) = rendered(SYSTEM_WITH_LAST_QUESTION, Conversation(messages))
    assert "A" in whole.text and not whole.spans
