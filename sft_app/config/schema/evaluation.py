"""What is measured before and after training, and by sft-eval."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

TASK_NAMES = (
    "passkey",
    "niah_single",
    "niah_multikey",
    "niah_multivalue",
    "niah_multiquery",
    "variable_tracking",
    "common_words",
    "frequent_words",
)
"""Of the application's own tasks."""
DEFAULT_TASKS = ("passkey", "niah_single", "niah_multikey", "variable_tracking")
"""Those of evaluation=default. Where one of them, or of evaluation=long, which has all, does not
fit a length, nobody asked for it."""
LM_EVAL_PREFIX = "lm_eval:"
"""Before the name of a task of lm-evaluation-harness."""


class Scoring(StrEnum):
    """How an answer is judged."""

    forced = "forced"
    """One forward over prompt and answer: is every token of the answer the likeliest one? The same
    as greedy decoding of an exact answer, and far cheaper."""
    generate = "generate"
    """Greedy decoding; does the text contain the answer? The rule of the RULER paper."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """Choose what is measured before and after training."""

    before: bool = True
    """Evaluate the model as loaded, too: the report then says what training changed."""
    after: bool = True
    """Evaluate the trained model, as it was saved."""
    max_examples: int | None = 200
    """At most this many held-out conversations; null: all of them."""
    max_tokens: int | None = None
    """Stop after about this many held-out tokens; null: no limit."""
    batch_size: int = 1
    """Held-out conversations of one forward."""
    tasks: list[str] = field(default_factory=list)
    """RULER-style tasks: niah_single, niah_multikey, niah_multivalue, niah_multiquery,
    variable_tracking, common_words, frequent_words, passkey; and `lm_eval:NAME` for a task of
    lm-evaluation-harness (extra `lm-eval`). Empty: none."""
    samples: int = 10
    """Of each task at each length."""
    scoring: Scoring = Scoring.forced
    """How an answer is judged: forced or generate."""
    lengths: list[int] = field(default_factory=list)
    """Context lengths (tokens) at which tasks and perplexity are measured. Empty: the model's own
    window, half the trained length, that length and twice it, so that a cliff beyond it is seen; in
    a sweep, every context length of the sweep and twice the longest."""
    max_times_context: int | None = None
    """Lengths above this many times the trained one are not measured: 2 spares the short jobs of a
    sweep over context lengths the long measurements. Null: all are."""
    documents: Any = None
    """Text files, one document each (a path, folder, glob, pkg://package/folder or a list): what
    perplexity is measured on and what needles are hidden in. Null: the held-out conversations that
    are long enough, and noise sentences of the application's own."""
    max_documents: int = 16
    """At most this many long documents."""
    stride: int | None = None
    """Perplexity at a length n: null, over the first n tokens of each document; a number, over the
    last `stride` tokens of windows of n tokens that slide by it (256 in Press et al. 2022, and Chen
    et al. 2023)."""
    max_windows: int = 16
    """With a stride: at most this many windows of a document, evenly spread."""
    longppl: bool = False
    """Measure LongPPL too: perplexity on the tokens that need the long context."""

    verify_saved: bool = True
    """At the end of a run, load what was saved in a fresh process with plain transformers, on the
    CPU, and compare it with the model in memory: weights, positions, tokenizer, logits."""


def measures_anything(evaluation: EvaluationConfig) -> bool:
    """Tell whether a training run evaluates at all."""
    return evaluation.before or evaluation.after
