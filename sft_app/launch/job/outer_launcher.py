"""Refuse to run below somebody else's launcher, where every rank would compose its own run."""

import os

from sft_app.common.errors import ConfigError


def refuse_outer_launcher() -> None:
    """Raise ConfigError when torchrun or `accelerate launch` started this very process.

    Each rank would compose for itself, and disagree about the run's directory.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "LOCAL_RANK"} <= os.environ.keys():
        raise ConfigError(
            "sft-train starts its own worker processes and must not be started by torchrun or "
            "accelerate launch. Run `sft-train launch.nproc_per_node=N ...`; a finished "
            "config.yaml can be run again with `torchrun --nproc-per-node N -m "
            "sft_app.training.worker RUN_DIR/config.yaml`."
        )
