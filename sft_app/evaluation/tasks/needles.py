"""Needles in a haystack: one, one among similar ones, several values, several questions.

RULER's NIAH tasks (arXiv:2404.06654, section 3.1), keys made of words and values of seven digits;
and the passkey, of five digits, after Landmark attention (Mohtashami and Jaggi 2023,
arXiv:2305.16300) and position interpolation (Chen et al. 2023, arXiv:2306.15595).
"""

import random

from sft_app.evaluation.tasks.exercise import Exercise, Needle
from sft_app.evaluation.tasks.words import new_keys, new_numbers

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the needle stands that is asked for, in turn."""
NUM_NEEDLES = 4
"""Keys of multikey and multiquery, values of multivalue."""
INTRO = "Read the text below. Access numbers are hidden in it; a question about them follows."


def niah_single(index: int, rng: random.Random) -> Exercise:
    """Hide one access number."""
    return _one_of(1, index, rng)


def niah_multikey(index: int, rng: random.Random) -> Exercise:
    """Hide four access numbers under different names, and ask for one of them."""
    return _one_of(NUM_NEEDLES, index, rng)


def niah_multivalue(index: int, rng: random.Random) -> Exercise:
    """Hide four access numbers under one name, and ask for all of them."""
    (key,) = new_keys(1, rng)
    values = new_numbers(NUM_NEEDLES, rng)
    needles = _spread([access_number(key, value) for value in values], rng)
    return Exercise(
        intro=INTRO,
        question=f"Which access numbers does the text give for {key}? List all of them in the "
        "order in which they appear.",
        answer_prefix=f"The access numbers of {key} are",
        references=tuple(values),
        needles=needles,
    )


def niah_multiquery(index: int, rng: random.Random) -> Exercise:
    """Hide four access numbers under different names, and ask for all of them."""
    keys, values = new_keys(NUM_NEEDLES, rng), new_numbers(NUM_NEEDLES, rng)
    sentences = [access_number(key, value) for key, value in zip(keys, values, strict=True)]
    needles = _spread(rng.sample(sentences, len(sentences)), rng)
    names = ", ".join(keys)
    return Exercise(
        intro=INTRO,
        question=f"Which access numbers does the text give for {names}? List them in this order.",
        answer_prefix=f"The access numbers of {names} are",
        references=tuple(values),
        needles=needles,
    )


def passkey(index: int, rng: random.Random) -> Exercise:
    """Hide a pass key of five digits."""
    (key,) = new_numbers(1, rng, digits=5)
    depth = DEPTHS[index % len(DEPTHS)]
    sentence = f"The pass key is {key}. Remember it: {key} is the pass key."
    return Exercise(
        intro="A pass key is hidden in a lot of unimportant text. Find it and memorise it.",
        question="What is the pass key?",
        answer_prefix="The pass key is",
        references=(key,),
        needles=(Needle(depth=depth, text=sentence),),
        depth=depth,
    )


def _one_of(count: int, index: int, rng: random.Random) -> Exercise:
    keys, values = new_keys(count, rng), new_numbers(count, rng)
    depth = DEPTHS[index % len(DEPTHS)]
    wanted = Needle(depth=depth, text=access_number(keys[0], values[0]))
    others = [access_number(key, value) for key, value in zip(keys[1:], values[1:], strict=True)]
    return Exercise(
        intro=INTRO,
        question=f"Which access number does the text give for {keys[0]}?",
        answer_prefix=f"The access number of {keys[0]} is",
        references=(values[0],),
        needles=(wanted, *_spread(others, rng)),
        depth=depth,
    )


def access_number(key: str, value: str) -> str:
    """Return the sentence that tells it."""
    return f"The access number of {key} is {value}."


def _spread(sentences: list[str], rng: random.Random) -> tuple[Needle, ...]:
    """At random depths, in the order given."""
    depths = sorted(rng.random() for _ in sentences)
    return tuple(
        Needle(depth=depth, text=text) for depth, text in zip(depths, sentences, strict=True)
    )
