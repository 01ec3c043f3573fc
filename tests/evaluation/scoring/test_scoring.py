"""Forced and generated answers agree; scores and effective lengths follow their published rules."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sft_app.config.schema.evaluation import Scoring
from sft_app.evaluation.measure import measure_tasks
from sft_app.evaluation.scoring.effective_length import effective_lengths, mean_scores
from sft_app.evaluation.scoring.forced import forced_scores
from sft_app.evaluation.scoring.generate import contained, generate, generated_scores
from sft_app.evaluation.tasks.assemble import Material
from sft_app.evaluation.tasks.build import TaskSamples
from sft_app.evaluation.tasks.encoder import Encoder
from sft_app.evaluation.tasks.haystack import noise_haystack
from sft_app.evaluation.tasks.prompt_frame import prompt_frame
from sft_app.evaluation.token_reader import TokenReader
from sft_app.records.result import TaskScore
from tests.evaluation.induction_model import induction_model


def test_forced_and_generated_answers_agree(tiny_model: Path) -> None:
    """On a model that copies: it finds a single number, and of several it takes the last.

    A forced answer is exact exactly when the generated text begins with the answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    reader = TokenReader(induction_model(len(tokenizer)), "cpu")
    assert not reader.takes_whole_logits
    material = Material(
        Encoder(tokenizer), prompt_frame(tokenizer), noise_haystack(tokenizer, 512, 0)
    )
    tasks = TaskSamples(material, ["niah_single", "niah_multikey"], (512,), samples=4, seed=3)
    seen = set()
    for task in tasks.tasks:
        samples = list(tasks.of(task, 512))
        forced = forced_scores(reader, samples)
        generated = generated_scores(reader, samples, tokenizer)
        for sample, score, contains in zip(samples, forced, generated, strict=True):
            text = generate(reader, sample, tokenizer).strip()
            assert score == float(text.startswith(sample.references[0]))
            assert contains >= score
            seen.add(score)
        assert sum(forced) == pytest.approx(sum(generated))
    assert seen == {0.0, 1.0}, "the model must get some right and some wrong"


def test_how_the_model_likes_to_generate_changes_no_score(tiny_model: Path) -> None:
    """Of its own settings only the tokens at which an answer ends are kept, and none is lost."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = induction_model(len(tokenizer))
    reader = TokenReader(model, "cpu")
    material = Material(
        Encoder(tokenizer), prompt_frame(tokenizer), noise_haystack(tokenizer, 512, 0)
    )
    tasks = TaskSamples(material, ["niah_single"], (512,), samples=4, seed=3)
    samples = list(tasks.of("niah_single", 512))
    plain = generated_scores(reader, samples, tokenizer)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=50.0, no_repeat_ngram_size=1,
        min_new_tokens=40, suppress_tokens=list(range(200)), num_beams=2, max_length=8,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model.generation_config = own
    assert sum(plain) > 0
    assert generated_scores(reader, samples, tokenizer) == plain
    assert model.generation_config is own


@pytest.mark.parametrize("scoring", Scoring)
def test_answers_of_a_model_that_computes_no_numbers_are_wrong_and_that_is_said(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, scoring: Scoring
) -> None:
    """A score of 0% alone would look like a model that reads badly."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    material = Material(
        Encoder(tokenizer), prompt_frame(tokenizer), noise_haystack(tokenizer, 512, 0)
    )
    tasks = TaskSamples(material, ["passkey"], (512,), samples=2, seed=3)
    with caplog.at_level("WARNING"):
        found = measure_tasks(tasks, TokenReader(model, "cpu"), scoring)
    assert found["passkey"]["512"].score == 0.0
    assert "passkey at 512 tokens: " in caplog.text
    assert "predictions are no numbers" in caplog.text


def test_the_share_of_references_counts_and_any_will_do_in_question_answering() -> None:
    assert contained("it is 12, and then 34", ["12", "34", "56"]) == pytest.approx(2 / 3)
    assert contained("PARIS.", ["paris"]) == 1.0
    assert contained("in the city of Paris", ["Paris", "Lutetia", "Paname"], any_of=True) == 1.0


def scores(**by_task: list[float]) -> dict[str, dict[str, TaskScore]]:
    return {
        task: {
            str(1024 * 2**i): TaskScore(score=score, samples=4) for i, score in enumerate(values)
        }
        for task, values in by_task.items()
    }


def test_the_effective_length_by_both_rules() -> None:
    """Means 1.0, 0.9, 0.85, 0.2: the third is 85% of the base, and below 85.6%."""
    found = effective_lengths(scores(a=[1.0, 0.9, 0.8, 0.4], b=[1.0, 0.9, 0.9, 0.0]))
    assert found == {"nolima_85": 4096, "ruler_85.6": 2048}


def test_a_model_that_can_do_nothing_has_no_effective_length() -> None:
    assert effective_lengths(scores(a=[0.0, 0.0])) == {"nolima_85": None, "ruler_85.6": None}
    assert effective_lengths({}) == {}


def test_mean_scores_stand_in_the_order_of_their_lengths() -> None:
    """What is written is the same each time: sets of texts have another order in each process."""
    score = TaskScore(score=1.0, samples=4)
    found = mean_scores({"a": {str(n): score for n in (16384, 2048, 1024, 65536, 8192, 4096)}})
    assert list(found) == sorted(found)


def test_a_task_that_misses_a_length_is_not_averaged() -> None:
    tasks = scores(a=[1.0, 0.2], b=[1.0, 1.0])
    tasks["c"] = {"1024": TaskScore(score=0.0, samples=4)}
    assert effective_lengths(tasks)["nolima_85"] == 1024
