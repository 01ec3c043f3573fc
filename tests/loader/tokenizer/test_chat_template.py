"""Variables, dates and reasoning in chat templates: fixed in training, open in what is saved."""

import functools
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.common.resource_limits import chat_template_limits
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.render import Renderer
from sft_app.data.store.token_cache import tokenizer_digest
from sft_app.loader.tokenizer.chat_template import ChatTemplatePlan, set_chat_template
from sft_app.loader.tokenizer.template_variables import FIXED_DATE, fix_variables
from tests.data.tokenizers_for_tests import byte_level

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
"""As Qwen3's: an answer without reasoning is shown behind an empty think block."""

OPENS_A_THOUGHT = THINKING.replace(
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n",
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n",
)
"""As Qwen3.5's: the model is asked behind a thought that is open already."""

CUTS_REASONING = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}"
    "{% else %}<|im_end|>{{ m.content.split('</think>')[-1] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|><think>\n{% endif %}"
)
"""As DeepSeek-R1's distillations."""

DATED = (
    "{% if not date_string is defined %}"
    "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = 'no clock' %}{% endif %}{% endif %}"
    "Today: {{ date_string }}\n{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
"""As Llama-3.2's."""

QUESTION = [{"role": "user", "content": "Q"}]


def prepared(template: str, **kwargs: Any) -> tuple[PreTrainedTokenizerBase, ChatTemplatePlan]:
    tokenizer = byte_level(template)
    return tokenizer, set_chat_template(tokenizer, None, adds_bos=False, kwargs=kwargs)


def rendered(tokenizer: PreTrainedTokenizerBase, **variables: Any) -> str:
    text = tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True, **variables
    )
    assert isinstance(text, str)
    return text


def learned(answer: Message, template: str = THINKING, **kwargs: Any) -> str:
    tokenizer, _ = prepared(template, **kwargs)
    item = Conversation([Message("user", "Q"), answer])
    [result] = Renderer(tokenizer, variables=kwargs).render(item)
    [span] = result.spans
    return result.text[span.start : span.stop]


def test_a_variable_is_fixed_in_training_and_a_default_in_what_is_saved() -> None:
    tokenizer, plan = prepared(THINKING, enable_thinking=False)
    closed = "<think>\n\n</think>\n\n"
    assert rendered(tokenizer).endswith(closed)
    assert rendered(tokenizer, enable_thinking=True).endswith(closed), "training has one way"
    assert "enable_thinking=False" in plan.source
    tokenizer.chat_template = plan.saved
    assert rendered(tokenizer).endswith(closed)
    assert not rendered(tokenizer, enable_thinking=True).endswith(closed)


@pytest.mark.parametrize(
    "value", ['it\'s \\ "two"\nlines {{ x }}', 3, 0.5, True, None, ["a", 1], {"k": "v"}]
)
def test_every_kind_of_value_arrives_as_it_is(value: object) -> None:
    tokenizer, _ = prepared(
        "{% for m in messages %}{{ given | string }}|{{ given is string }}{% endfor %}", given=value
    )
    assert rendered(tokenizer) == f"{value}|{isinstance(value, str)}"


def test_the_token_cache_knows_the_variables() -> None:
    digests = {
        tokenizer_digest(prepared(THINKING, **kwargs)[0])
        for kwargs in ({}, {"enable_thinking": True}, {"enable_thinking": False})
    }
    assert len(digests) == 3


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "a-b", "x = 1 %}"])
def test_names_that_are_not_the_user_s_to_give_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.chat_template_kwargs"):
        fix_variables(THINKING, {name: 1})


def test_a_variable_that_the_template_does_not_read_is_told() -> None:
    assert "enable_thoughts: the chat template does not read it" in "".join(
        prepared(THINKING, enable_thoughts=False)[1].warnings
    )


def test_a_clock_stands_still_in_training_and_runs_in_what_is_saved() -> None:
    tokenizer, plan = prepared(DATED)
    assert rendered(tokenizer).startswith(f"Today: {FIXED_DATE:%d %b %Y}\n")
    assert "its date is 2024-07-26" in plan.source
    tokenizer.chat_template = plan.saved
    assert rendered(tokenizer).startswith(f"Today: {date.today():%d %b %Y}\n")


def test_another_date_can_be_fixed() -> None:
    clock_only = DATED.replace("not date_string is defined", "true")
    tokenizer, plan = prepared(clock_only, date_string="2026-01-31")
    assert rendered(tokenizer).startswith("Today: 31 Jan 2026\n")
    assert "its date is 2026-01-31" in plan.source
    words, _ = prepared(DATED, date_string="some day")
    assert rendered(words).startswith("Today: some day\n")


def test_a_template_that_cuts_its_answers_is_told_with_the_way_out() -> None:
    _, plan = prepared(CUTS_REASONING)
    assert "set tokenizer.chat_template to a format (alpaca, chatml" in "".join(plan.warnings)
    for good in (THINKING, DATED):
        assert "own generation prompt" not in "".join(prepared(good)[1].warnings)


def test_an_empty_think_block_is_learned_only_when_asked_for() -> None:
    plain = Message("assistant", "A")
    assert learned(plain) == "A<|im_end|>"
    assert learned(plain, enable_thinking=False) == "A<|im_end|>"
    asked = learned(plain, enable_thinking=True)
    assert asked == "<think>\n\n</think>\n\nA<|im_end|>"


def test_a_thought_that_the_prompt_opens_is_not_learned_to_be_closed_at_once() -> None:
    """An answer without reasoning would teach a model that thinks to think nothing."""
    assert learned(Message("assistant", "A"), OPENS_A_THOUGHT) == "A<|im_end|>"
    assert learned(Message("assistant", "A"), OPENS_A_THOUGHT, enable_thinking=True) == (
        "\n</think>\n\nA<|im_end|>"
    )
    thought = Message("assistant", "A", extra={"reasoning_content": "R"})
    assert learned(thought, OPENS_A_THOUGHT) == "R\n</think>\n\nA<|im_end|>"


def test_reasoning_is_learned_whether_or_not_it_is_asked_for() -> None:
    thought = Message("assistant", "A", extra={"reasoning_content": "because"})
    assert learned(thought) == "<think>\nbecause\n</think>\n\nA<|im_end|>"


def test_what_is_saved_is_read_back_by_plain_transformers(tmp_path: Path) -> None:
    tokenizer, plan = prepared(THINKING, enable_thinking=False)
    tokenizer.chat_template = plan.saved
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert rendered(again).endswith("<think>\n\n</think>\n\n")


SEVERAL = {"default": THINKING, "tool_use": "{{ tools }}", "rag": "{{ documents }}"}


def test_further_templates_are_saved_as_they_are_and_told(tmp_path: Path) -> None:
    tokenizer = byte_level(THINKING)
    tokenizer.chat_template = dict(SEVERAL)
    plan = set_chat_template(tokenizer, None, adds_bos=False, kwargs={"enable_thinking": False})
    assert rendered(tokenizer).endswith("<think>\n\n</think>\n\n")
    assert plan.warnings[0].count("tool_use") == 2 and "rag" in plan.warnings[0]
    assert plan.saved is not None
    tokenizer.chat_template = plan.saved
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert {**SEVERAL, "default": again["default"]} == again
    assert again["default"].endswith(THINKING)


def test_a_chosen_format_takes_the_place_of_all() -> None:
    tokenizer = byte_level(THINKING)
    tokenizer.chat_template = dict(SEVERAL)
    plan = set_chat_template(tokenizer, "chatml", adds_bos=False)
    assert isinstance(plan.saved, str) and "(tool_use, rag) are not saved" in plan.warnings[0]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"tool_use": "{{ tools }}"}, r"own \(tool_use\) none is called default"),
        (5, "own is 5, where a text is expected"),
        ({"default": 5}, "where a text is expected"),
    ],
)
def test_a_tokenizer_whose_templates_name_no_chat_is_refused(own: Any, told: str) -> None:
    tokenizer = byte_level(THINKING)
    tokenizer.chat_template = own
    with pytest.raises(ConfigError, match=f"{told}.*; set it to .*chatml"):
        set_chat_template(tokenizer, None, adds_bos=False)


def test_a_template_that_computes_for_ever_is_a_setting_that_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "endless.jinja"
    loop = "{% for a in range(99999) %}"
    template.write_text(loop + loop + "{% endfor %}{% endfor %}")
    limits = functools.partial(chat_template_limits, seconds=0.3)
    monkeypatch.setattr("sft_app.loader.tokenizer.chat_template.chat_template_limits", limits)
    with pytest.raises(ConfigError, match="one short question takes more than"):
        set_chat_template(byte_level(), str(template), adds_bos=False)


ROLES_ALONE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|start_header_id|>\n{{ m.content }}"
    "{% else %}<|end_header_id|>\n<|im_start|><|im_end|>\n{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|end_header_id|>{% endif %}"
)
"""As GLM-4.5's: an answer ends where the next role's token stands, and a thought before it."""

ENDS_AND_ASKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|eot_id|>{% endfor %}"
    "<|im_start|><|start_header_id|>"
)
"""As Command-A's: the header of the next answer stands behind every conversation."""


@pytest.mark.parametrize(
    ("template", "stops", "is_told"),
    [(ROLES_ALONE, ["</s>"], True), (ENDS_AND_ASKS, ["</s>", "<|eot_id|>"], False)],
    ids=["roles alone", "ends and asks"],
)
def test_generation_stops_at_what_ends_an_answer_and_at_nothing_else(
    template: str, stops: list[str], is_told: bool
) -> None:
    """A token before the answer, saved as an end, would stop each answer before its first word."""
    tokenizer = byte_level(template, eos="</s>")
    plan = set_chat_template(tokenizer, None, adds_bos=False)
    assert tokenizer.convert_ids_to_tokens(list(plan.stop_token_ids)) == stops
    assert any("will not learn where to stop" in text for text in plan.warnings) is is_told
