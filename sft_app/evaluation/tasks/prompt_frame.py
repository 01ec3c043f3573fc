"""What stands around a question: the model's chat template, or nothing."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sft_app.evaluation.tasks.encoder import Encoder

_PLACE = "\u2042here\u2042"
"""Stands for the question while the template is rendered: no template has it."""


@dataclass(frozen=True, kw_only=True)
class PromptFrame:
    """The text before the question, and between it and the answer."""

    before: str
    after: str
    begin: tuple[int, ...] = ()
    """BOS, where plain text begins with it."""
    name: str

    def ids_before(self, encoder: Encoder) -> list[int]:
        """Return the ids with which every prompt begins."""
        return [*self.begin, *encoder.encode(self.before)]


def prompt_frame(tokenizer: PreTrainedTokenizerBase) -> PromptFrame:
    """Return the chat template's frame; the plain one for tokenizers without a usable template.

    Where there is a template and it cannot be used, the frame's name says why.
    """
    name = "plain text"
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": _PLACE}]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise whatever they like
            text = ""
            why = " ".join(str(error).split())
            name += f" (the chat template refuses a lone question: {why})"
        else:
            name += " (the chat template does not show a question as it is)"
        if isinstance(text, str) and text.count(_PLACE) == 1:
            before, after = text.split(_PLACE)
            return PromptFrame(before=before, after=after, name="the chat template")
    first = tokenizer("a")["input_ids"][:1]
    begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    begin = (int(tokenizer.bos_token_id),) if begins else ()
    return PromptFrame(before="", after="\n", begin=begin, name=name)
