"""Which settings decide a run's outcome: their hash tells whether a finished run can be kept."""

import dataclasses
import hashlib
import json
from enum import Enum
from typing import Any

from sft_app.config.schema.app import AppConfig

CANNOT_CHANGE_THE_OUTCOME = {
    "sweep": None,
    "launch": ("rdzv_endpoint", "rdzv_timeout_seconds", "node_rank", "cpu_threads",
               "shutdown_grace_seconds"),
    "model": ("cache_dir",),
    "data": ("num_proc", "cache_dir", "preview"),
    "trainer": ("resume_from_checkpoint", "report_to", "dataloader_num_workers",
                "save_total_limit", "profile"),
}  # fmt: skip
"""Group -> keys left out of the hash; None: the whole group."""


def can_change_the_outcome(key: str) -> bool:
    """Of a dotted key."""
    group, _, name = key.partition(".")
    left_out = CANNOT_CHANGE_THE_OUTCOME.get(group, ())
    return left_out is not None and name not in left_out


def config_hash(config: AppConfig) -> str:
    """SHA-256 (hex) of the resolved settings that can change what the run produces."""
    settings: dict[str, Any] = dataclasses.asdict(config)
    for group, keys in CANNOT_CHANGE_THE_OUTCOME.items():
        if keys is None:
            settings.pop(group)
        else:
            for key in keys:
                settings[group].pop(key)
    text = json.dumps(settings, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else str(value)
