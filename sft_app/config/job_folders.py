"""Where the jobs of a sweep go: one folder below the sweep's, named after the job's settings."""

import hashlib
import re
from collections.abc import Sequence

from sft_app.compat import hydra_internals

LONGEST = 160
"""Characters of a folder's name; file systems allow 255 bytes."""

KEPT_ALWAYS = ("context_length", "seed")
"""In the name even when they have one value: a later command may add others to the sweep."""

_UNSAFE = re.compile(r"[^\w.+=-]+")


def sweep_dir(name: str | None, now: str) -> str:
    """Return the folder of a sweep; `now` tells unnamed ones apart."""
    return f"outputs/sweeps/{name}" if name else f"outputs/multirun/{now}"


def run_dir(name: str | None, now: str) -> str:
    """Return the folder of one run; `now` tells unnamed ones apart."""
    return f"outputs/runs/{name}" if name else f"outputs/{now}"


def folder_name(settings: str) -> str:
    """Return `settings` as ONE folder's name, which no shell, path or Hydra reads specially.

    What had to be replaced or cut is made up for by a digest, so different settings never meet.
    """
    if not settings:
        return "job"
    name = _UNSAFE.sub("-", settings).strip("-.")
    if name == settings and len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    return f"{name[:LONGEST]}-{digest}".lstrip("-")


def keys_left_out(fixed: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return the keys that name no folder, of those with one value in the whole sweep.

    A group's choice does, such as rope=yarn; a path or a number that is the same for all does not.
    """
    named = {*KEPT_ALWAYS, *groups} - {"sweep", "experiment", "launch", "evaluation"}
    return [key for key in fixed if key not in named]


def register_resolvers() -> None:
    """Register what conf/config.yaml interpolates.

    Called where every process passes that composes a configuration or unpickles one.
    """
    hydra_internals.register_resolver("sweep_dir", sweep_dir)
    hydra_internals.register_resolver("run_dir", run_dir)
    hydra_internals.register_resolver("folder_name", folder_name)
