"""Generated answers, judged as the RULER paper does: which references does the text contain?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from sft_app.compat.model_internals import forget_longer_inputs
from sft_app.evaluation.tasks.exercise import Sample
from sft_app.evaluation.token_reader import TokenReader

MORE_TOKENS = 16
"""Beyond those of the right answer: for an answer in other words."""


def generated_scores(
    reader: TokenReader, samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase
) -> list[float]:
    """Return the share of references that each sample's greedy answer contains; same on all ranks.

    The model must be whole on every rank.
    """
    found = torch.zeros(len(samples))
    for number, counts in reader.split.turns(len(samples)):
        score = contained(generate(reader, samples[number], tokenizer), samples[number].references)
        if counts:
            found[number] = score
    return [float(score) for score in reader.split.sum(found, reader.device)]


def contained(text: str, references: Sequence[str], *, any_of: bool = False) -> float:
    """Return the share of `references` in `text`, case ignored; with `any_of`, 1 if there is one.

    RULER's rule: every reference counts in retrieval, tracing and aggregation; in question
    answering the references are spellings of one answer, and any will do.
    """
    lower = text.lower()
    shares = [float(reference.lower() in lower) for reference in references]
    return max(shares) if any_of else sum(shares) / len(shares)


@torch.no_grad()
def generate(reader: TokenReader, sample: Sample, tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode greedily from the sample's prompt, a little longer than the right answer is."""
    prompt = torch.from_numpy(sample.input_ids[None, : sample.prompt_length]).to(reader.device)
    model: Any = reader.inner
    forget_longer_inputs(model)
    with _greedy(model, tokenizer):
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=len(sample.input_ids) - sample.prompt_length + MORE_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )
    reader.note_not_finite(sum(bool(logits.isnan().any()) for logits in output.logits))
    answer = output.sequences[0, sample.prompt_length :]
    return str(tokenizer.decode(answer, skip_special_tokens=True))


@contextmanager
def _greedy(model: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Leave of the model's own way of generating where an answer ends, and nothing else.

    transformers takes over what a call does not say: a penalty on repetition, say, would forbid the
    very number that stands in the prompt.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        yield
    finally:
        model.generation_config = own
