"""Variable tracking: which names stand for a value, through a chain of assignments.

RULER's multi-hop tracing (arXiv:2404.06654, section 3.2): one chain of four hops, five names.
"""

import random

from sft_app.evaluation.tasks.exercise import Exercise, Needle
from sft_app.evaluation.tasks.words import new_numbers, new_variables

NUM_HOPS = 4


def variable_tracking(index: int, rng: random.Random) -> Exercise:
    """Assign a number to a name, that name to another one, and so on; ask for all names."""
    names = new_variables(NUM_HOPS + 1, rng)
    (value,) = new_numbers(1, rng, digits=5)
    sources = [value, *names[:-1]]
    assignments = [f"VAR {name} = {source}." for name, source in zip(names, sources, strict=True)]
    depths = sorted(rng.random() for _ in assignments)
    return Exercise(
        intro="Read the text below and keep track of the variables that are assigned in it.",
        question=f"Which variables have the value {value}, directly or through another variable? "
        "List them in the order in which they were assigned.",
        answer_prefix=f"The variables with the value {value} are",
        references=tuple(names),
        needles=tuple(
            Needle(depth=depth, text=text) for depth, text in zip(depths, assignments, strict=True)
        ),
    )
