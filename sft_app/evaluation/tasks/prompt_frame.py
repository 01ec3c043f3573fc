"""What stands around a question: the model's chat template, or nothing."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sft_app.common.thought_marks import opens_a_thought
from sft_app.evaluation.tasks.encoder import Encoder

_PLACE, _ANSWER = "\u2042here\u2042", "\u2042there\u2042"
"""Stand for question and answer while the template is rendered: no template has them."""


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
            before, asked = text.split(_PLACE)
            after = _up_to_the_answer(tokenizer, asked)
            name = "the chat template"
            if after != asked:
                name += ", up to where it writes what an answer says"
            return PromptFrame(before=before, after=after, name=name)
    first = tokenizer("a")["input_ids"][:1]
    begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    begin = (int(tokenizer.bos_token_id),) if begins else ()
    return PromptFrame(before="", after="\n", begin=begin, name=name)


def _up_to_the_answer(tokenizer: PreTrainedTokenizerBase, asked: str) -> str:
    """Return what stands between a question and the text of an answer; `asked` or more.

    A model is prompted at the beginning of its turn, where it may write a channel's header or a
    thought first. None of that is what is measured: a known answer is scored where the template
    writes one, behind an empty thought, as training reads it.
    """
    turns = [{"role": "user", "content": _PLACE}, {"role": "assistant", "content": _ANSWER}]
    try:
        told = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # templates raise whatever they like
        return asked
    between = told.partition(_PLACE)[2].rpartition(_ANSWER)[0]
    if between.startswith(asked) and between[len(asked) :].strip():
        return between
    return between if between and opens_a_thought(asked) else asked
