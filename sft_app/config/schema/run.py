"""One run that is not part of a sweep."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class RunConfig:
    """Say where a run lives."""

    name: str | None = None
    """A named run lives in outputs/runs/<name>/, and the same command continues it, says that it is
    done, or is refused with what has changed."""
