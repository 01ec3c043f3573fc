"""Hardware that sft-plan is to reckon with, and that is not here."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class PlanConfig:
    """Say for which hardware sft-plan reckons; training takes what is there."""

    gpu: str | None = None
    """A GPU by its datasheet, such as h100, h200, a100 or l40s: memory against it, time, the
    longest context that fits, and what would save most; null: this machine."""
    gpus: int = 1
    """How many of them work on the job together."""
    utilisation: float = 0.4
    """Share of the datasheet's rate of matrix products that a step reaches."""
