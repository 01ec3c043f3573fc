"""An answer behind the prompt that asks for it, where that is no beginning of the whole text."""

from dataclasses import replace

from sft_app.common.thought_marks import begins_with_a_thought, without_empty_thought
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.template import ChatTemplate, TemplateRefused


def answer_behind_its_prompt(
    template: ChatTemplate, item: Conversation, index: int
) -> tuple[str, int]:
    """Return the prompt that a user would send for an answer, and the answer; where it begins.

    `item` ends with the answer, its message `index`. Some templates show what was thought before a
    call until the final answer is there, and hide it then (gpt-oss): what is answered is taken from
    the conversation without those thoughts. Others ask behind an empty thought, and do not show it
    once an answer is there (Gemma 4).

    Raises TemplateRefused where the template does not write it behind that prompt, either.
    """
    prompt = template.before_answer(item, index)
    told = template.render(item, item.messages)
    plain = without_empty_thought(prompt)
    if plain is not None and told.startswith(plain):
        answer = told[len(plain) :]
        if not begins_with_a_thought(answer):
            return prompt + answer, len(prompt)
    bare = [*map(_without_thought, item.messages[:index]), item.messages[index]]
    bare_item = replace(item, messages=bare)
    told = template.render(bare_item, bare)
    start = template.answer_start(bare_item, index, told)
    if start is None or bare == item.messages:
        raise TemplateRefused(
            "the chat template does not write an answer behind its own generation prompt, so its "
            "place cannot be known; tokenizer.chat_template=FILE.jinja can name a template that "
            "does, and tokenizer.chat_template_kwargs can switch a thinking mode"
        )
    return prompt + told[start:], len(prompt)


def _without_thought(message: Message) -> Message:
    """A message without reasoning, and without the text beside its calls, which is one as well."""
    if message.role != "assistant":
        return message
    extra = {key: value for key, value in message.extra.items() if key != "reasoning_content"}
    content = "" if "tool_calls" in extra else message.content
    return replace(message, content=content, extra=extra)
