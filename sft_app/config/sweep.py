"""A named sweep over settings, run by `sft-train --multirun`."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class SweepConfig:
    name: str | None = None
    """A named sweep lives in outputs/sweeps/<name>/<job>/ and can be continued."""
