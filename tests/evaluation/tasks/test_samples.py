"""Samples of the tasks: exact lengths, the answer inside, the same for the same seed."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.config.schema.evaluation import TASK_NAMES
from sft_app.evaluation.tasks.assemble import Material
from sft_app.evaluation.tasks.build import TaskSamples
from sft_app.evaluation.tasks.encoder import Encoder
from sft_app.evaluation.tasks.haystack import document_haystack, noise_haystack
from sft_app.evaluation.tasks.prompt_frame import prompt_frame
from sft_app.evaluation.tasks.words import made_words
from tests.data.templates_of_families import (
    ASKS_BEHIND_EVERYTHING,
    ASKS_WITHOUT_A_THOUGHT,
    BEGINS_WITH_A_THOUGHT,
    THINKS,
)
from tests.data.tokenizers_for_tests import (
    CHATML,
    LLAMA2,
    LLAMA3,
    VICUNA,
    byte_level,
    in_python,
    sentencepiece_like,
)

Make = Callable[..., TaskSamples]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def make(tokenizer: PreTrainedTokenizerBase) -> Make:
    """A byte is a token."""

    def of(
        *tasks: str, lengths: tuple[int, ...] = (2048,), seed: int = 1, samples: int = 5
    ) -> TaskSamples:
        material = Material(
            Encoder(tokenizer), prompt_frame(tokenizer), noise_haystack(tokenizer, max(lengths), 0)
        )
        return TaskSamples(material, tasks, lengths, samples=samples, seed=seed)

    return of


@pytest.mark.parametrize("task", [t for t in TASK_NAMES if t != "common_words"])
@pytest.mark.parametrize("length", [1024, 2048, 2049])
def test_a_sample_has_exactly_its_length_and_ends_with_the_answer(
    make: Make, tokenizer: PreTrainedTokenizerBase, task: str, length: int
) -> None:
    for sample in make(task, lengths=(length,)).of(task, length):
        assert len(sample.input_ids) == length
        text = tokenizer.decode(sample.input_ids)
        prompt = tokenizer.decode(sample.input_ids[: sample.prompt_length])
        assert text == prompt + " " + ", ".join(sample.references)
        assert prompt.count("<|im_start|>") == 2, "the user's turn, and the assistant's"
        for reference, (begin, end) in zip(sample.references, sample.spans, strict=True):
            assert tokenizer.decode(sample.input_ids[begin:end]).lstrip(", ") == reference
            assert re.search(rf"\b{reference}\b", prompt), "the answer stands in the text"


def test_the_same_seed_makes_the_same_samples(make: Make) -> None:
    one, same, other = (
        [list(s.input_ids) for s in make("niah_multikey", seed=seed).of("niah_multikey", 2048)]
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
    assert len({tuple(ids) for ids in one}) == len(one)


@pytest.mark.parametrize("task", ["passkey", "niah_single", "niah_multikey"])
def test_the_needle_stands_at_its_depth(
    make: Make, tokenizer: PreTrainedTokenizerBase, task: str
) -> None:
    depths = []
    for sample in make(task, lengths=(8192,)).of(task, 8192):
        place = tokenizer.decode(sample.input_ids).index(sample.references[0])
        assert sample.depth is not None
        assert place / 8192 == pytest.approx(sample.depth, abs=0.08)
        depths.append(sample.depth)
    assert depths == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_needles_stand_between_sentences(make: Make, tokenizer: PreTrainedTokenizerBase) -> None:
    for sample in make("niah_multivalue", lengths=(4096,)).of("niah_multivalue", 4096):
        text = tokenizer.decode(sample.input_ids)
        needles = list(re.finditer(r"(?<=(.))\sThe access number of \S+ is \d{7}\.", text))
        assert len(needles) == 4
        assert all(needle[1] in ".\n" for needle in needles)
        values = [needle[0][-8:-1] for needle in needles]
        assert tuple(values) == sample.references, "in the order in which they appear"


def test_a_chain_of_four_hops_leads_to_every_variable(
    make: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    for sample in make("variable_tracking").of("variable_tracking", 2048):
        text = tokenizer.decode(sample.input_ids)
        assigned = dict(re.findall(r"VAR (\w+) = (\w+)\.", text))
        assert tuple(assigned) == sample.references
        value = re.findall(r"have the value (\d+)", text)[0]
        for name in sample.references:
            hops = 0
            while name in assigned:
                name, hops = assigned[name], hops + 1
            assert name == value
        assert len(assigned) == 5


def test_common_words_stand_30_times_and_the_others_3_times(
    make: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    for sample in make("common_words", lengths=(6000,)).of("common_words", 6000):
        counts = word_counts(tokenizer.decode(sample.input_ids[: sample.prompt_length]))
        assert {word for word, n in counts.items() if n == 30} == set(sample.references)
        assert len(sample.references) == 10
        assert {n for n in counts.values() if n < 30} == {3}
        assert list(sample.references) == sorted(sample.references)


def test_frequent_words_follow_a_zipf_distribution_whose_first_rank_is_noise(
    make: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    """RULER, section 3.3: the word of rank k stands N / (k^2 * zeta(2)) times, in whole numbers."""
    for sample in make("frequent_words", lengths=(6000,)).of("frequent_words", 6000):
        counts = word_counts(tokenizer.decode(sample.input_ids[: sample.prompt_length]))
        ranked = counts.most_common(6)
        assert ranked[0][0] == "..."
        assert [word for word, _ in ranked[1:4]] == list(sample.references)
        for rank, (_, times) in enumerate(ranked, start=1):
            assert times == pytest.approx(ranked[0][1] / rank**2, abs=1.0)
        assert ranked[3][1] > ranked[4][1], "there is one right answer"


def word_counts(prompt: str) -> Counter[str]:
    known = {*made_words(3000), "..."}
    return Counter(word for word in prompt.split() if word in known)


def test_a_length_that_a_task_does_not_fit_is_an_error_or_left_out(make: Make) -> None:
    tasks = make("passkey", "common_words", lengths=(1024, 6000))
    tasks.leave_out_unfit(strict=False)
    assert tasks.pairs() == [("passkey", 1024), ("passkey", 6000), ("common_words", 6000)]
    tasks.leave_out_unfit(strict=True)  # it fits one of them
    tasks = make("passkey", "common_words", lengths=(512, 1024))
    with pytest.raises(ConfigError, match=r"common_words .* does not fit 1,024 tokens"):
        tasks.leave_out_unfit(strict=True)


def test_a_length_that_only_some_samples_fit_is_left_out(make: Make) -> None:
    """Names are of several lengths: one in many may not fit where the first five do."""
    lengths = (392, 400, 404, 424)
    few, many = (make("niah_multikey", lengths=lengths, samples=n) for n in (5, 60))
    for tasks in (few, many):
        tasks.leave_out_unfit(strict=False)
        assert all(len(list(tasks.of(*pair))) == tasks.num_samples for pair in tasks.pairs())
    assert 0 < len(many.pairs()) < len(few.pairs()), "there are lengths that five fit and 60 not"


def test_the_users_documents_are_the_haystack(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = "A fox runs. " * 500
    haystack = document_haystack(tokenizer, [text], 4000, "a.txt")
    material = Material(Encoder(tokenizer), prompt_frame(tokenizer), haystack)
    samples = TaskSamples(material, ["passkey"], (4000,), samples=2, seed=0)
    for sample in samples.of("passkey", 4000):
        assert tokenizer.decode(sample.input_ids).count("A fox runs.") > 300
    with pytest.raises(ConfigError, match=r"a\.txt is too short: 6,000 tokens"):
        document_haystack(tokenizer, [text], 7000, "a.txt")


def test_without_a_chat_template_the_prompt_is_plain(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    material = Material(
        Encoder(tokenizer), prompt_frame(tokenizer), noise_haystack(tokenizer, 1024, 0)
    )
    (sample,) = TaskSamples(material, ["passkey"], (1024,), samples=1, seed=0).of("passkey", 1024)
    text = tokenizer.decode(sample.input_ids)
    assert "<|im_start|>" not in text
    assert text.endswith(f"\nThe pass key is {sample.references[0]}")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('a system turn,\nplease') }}", "a system turn, please"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "as it is"),
        ("{% for m in messages %}{{ m.content }} {{ m.content }}{% endfor %}", "as it is"),
    ],
    ids=["refuses", "changes the case", "shows it twice"],
)
def test_a_template_that_cannot_frame_a_question_is_told_and_left_out(
    tiny_model: Path, template: str, why: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    frame = prompt_frame(tokenizer)
    assert (frame.before, frame.after) == ("", "\n")
    assert frame.name.startswith("plain text (the chat template") and why in frame.name


HEADED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}/final{% endif %}"
    "{{ '\n' + m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
"""As gpt-oss's: a model begins its turn with the name of a channel."""


@pytest.mark.parametrize(
    ("template", "after"),
    [
        (CHATML, "<|im_end|>\n<|im_start|>assistant\n"),
        (VICUNA, " ASSISTANT: "),
        (THINKS, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (BEGINS_WITH_A_THOUGHT, "<|im_end|>\n<|im_start|>assistant\n"),
        (HEADED, "<|im_end|><|im_start|>assistant/final\n"),
        (ASKS_BEHIND_EVERYTHING, "<|im_end|><|im_start|>assistant\n<|start_header_id|>"),
        (
            ASKS_WITHOUT_A_THOUGHT,
            "<|im_end|>\n<|im_start|>assistant\n<|channel>thought\n<channel|>",
        ),
    ],
    ids=["chatml", "vicuna", "qwen 3", "r1", "gpt-oss", "command a", "gemma 4"],
)
def test_an_answer_is_scored_where_the_template_writes_one(template: str, after: str) -> None:
    """A model that begins with a thought, or a channel's name, would miss every known answer."""
    assert prompt_frame(byte_level(template)).after == after


def test_what_follows_a_word_keeps_its_text_where_the_tokenizer_joins_both() -> None:
    """The corpus has "Hello,", so that an o and a comma are one token."""
    encoder = Encoder(sentencepiece_like())
    ids = encoder.encode("romo") + encoder.encode_after("romo", ", paga")
    assert encoder.tokenizer.decode(ids) == "romo, paga"


KINDS = {"bytes": byte_level, "sentencepiece": sentencepiece_like, "python": in_python}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", [CHATML, LLAMA2, LLAMA3, VICUNA, None])
def test_every_kind_of_tokenizer_and_template_gives_the_answer_as_it_is_written(
    kind: str, template: str | None
) -> None:
    tokenizer = KINDS[kind](CHATML)
    tokenizer.chat_template = template
    haystack = noise_haystack(tokenizer, 2000, 0)
    material = Material(Encoder(tokenizer), prompt_frame(tokenizer), haystack)
    for task in (name for name in TASK_NAMES if name != "common_words"):
        for sample in TaskSamples(material, [task], (2001,), samples=2, seed=1).of(task, 2001):
            assert len(sample.input_ids) == 2001
            answer = tokenizer.decode(sample.input_ids[sample.prompt_length :])
            assert answer.strip() == ", ".join(sample.references)
            for reference, (begin, end) in zip(sample.references, sample.spans, strict=True):
                assert tokenizer.decode(sample.input_ids[begin:end]).strip(", ") == reference
