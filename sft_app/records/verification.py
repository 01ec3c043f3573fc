"""The verdict on a saved model: what a fresh process found when it loaded it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Check:
    """One thing that was looked at."""

    passed: bool
    detail: str
    """What was found, in words."""


@dataclass(kw_only=True)
class Verification:
    """What plain transformers made of a saved model."""

    passed: bool
    checks: dict[str, Check] = field(default_factory=dict)
    """Name -> what was found."""

    def sentence(self) -> str:
        """Return the verdict in one sentence."""
        failed = {name: check for name, check in self.checks.items() if not check.passed}
        if self.passed:
            return f"a fresh process loads the model as it was trained ({', '.join(self.checks)})"
        found = "; ".join(f"{name}: {check.detail}" for name, check in failed.items())
        return f"NOT what was trained: {found}"


def verification_from_dict(raw: dict[str, Any]) -> Verification:
    """Read what `dataclasses.asdict` made of a Verification."""
    checks = {name: Check(**check) for name, check in raw["checks"].items()}
    return Verification(passed=raw["passed"], checks=checks)
