"""A sweep over settings, run by `sft-train --multirun`."""

from dataclasses import dataclass, field
from enum import StrEnum


class Budget(StrEnum):
    """In which unit the amount of training is given that all cells share."""

    own = "own"
    """Each cell trains as its own settings say."""
    tokens = "tokens"
    """`sweep.tokens` in all."""
    steps = "steps"
    """`trainer.max_steps` optimizer steps."""
    supervised = "supervised"
    """About `sweep.supervised_tokens` tokens whose loss counts: as many steps as that takes with
    what is left of the data at each length."""
    epochs = "epochs"
    """`trainer.num_train_epochs` passes over the data."""


class BestBy(StrEnum):
    """What names the best setting of a sweep."""

    perplexity = "perplexity"
    """The lowest perplexity, at the trained length and overall at the longest common one."""
    effective_length = "effective_length"
    """The longest effective length: how far the tasks are done at 85% of the base score."""
    cliff = "cliff"
    """The smallest fall of the tasks' mean score beyond the trained length."""


@dataclass(kw_only=True)
class SweepConfig:
    """Say what the jobs of `sft-train --multirun` share."""

    name: str | None = None
    """A named sweep lives in outputs/sweeps/<name>/<job>/, and the same command continues it."""
    budget: Budget = Budget.own
    """How much each cell is trained. Other than own: tokens per optimizer step, and so in total,
    are equal at every context length; each cell's batch follows from its length."""
    tokens: int | None = None
    """Training tokens of every cell, with budget=tokens."""
    supervised_tokens: int | None = None
    """Supervised training tokens of every cell, with budget=supervised."""
    tokens_per_step: int | None = None
    """Tokens of an optimizer step in every cell; null: what the longest context takes."""
    skip_longer_after_oom: bool = True
    """A cell that ran out of memory spares the longer ones that differ in nothing else."""
    lengths: list[int] = field(default_factory=list)
    """Where perplexity is measured unless evaluation.lengths says; empty: at every context length
    of the sweep."""
    best_by: BestBy = BestBy.perplexity
    """What names the best cell: perplexity, effective_length or cliff. The report states the rule;
    sft-report --best-by looks at the same files by another one."""
    continue_budgets: bool = False
    """A cell goes on from the checkpoint of the finished one that differs in nothing but fewer
    steps. That is exact, and so asked for, only where the learning rate does not depend on the
    number of steps: trainer.lr_scheduler_type=constant_with_warmup, warm-up in whole steps."""
    rungs: int = 1
    """Successive halving: so many rounds, each with `keep_one_in` times the tokens of the one
    before; the last one trains `tokens`. After each, the best settings by `best_by` go on. 1: all
    settings train all of it."""
    keep_one_in: int = 3
    """With rungs: of so many settings one goes on."""
    rung: int | None = None
    """Of a job: its round, from 0. The sweep sets it."""
    heldout_length: int | None = None
    """Tokens to which held-out conversations are fitted in every cell, whatever its own context, so
    that all are measured on the same ones; null: the shortest context of the sweep."""
