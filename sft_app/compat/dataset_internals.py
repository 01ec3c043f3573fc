"""What `datasets` has no public name for."""

from typing import Any


def dataset_fingerprint(dataset: Any) -> str:
    """Return what changes with the content of a hub dataset, as far as `datasets` can tell."""
    return str(dataset._fingerprint)
