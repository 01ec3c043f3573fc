"""Which settings go with rows, or models, that several processes share."""

from sft_app.config.app import AppConfig
from sft_app.config.errors import ConfigError
from sft_app.config.rope import RopeMethod

KEY = "trainer.context_parallel_size"

LENGTH_DEPENDENT_ROPE = (RopeMethod.dynamic, RopeMethod.longrope)
"""Frequencies that follow the largest position of a forward, which differs from part to part."""

EXTRA_OF_WHOLE_ROWS = {
    "label_smoothing_factor": "the Trainer shifts the labels of each part by itself",
    "neftune_noise_alpha": "the noise is scaled by the length of a part",
    "train_sampling_strategy": "its batches are made for processes that share no rows",
    "accelerator_config": "the application itself shares the batches out",
}
"""Names in trainer.extra that do not go with parts of rows, and why."""


def check_parallel(config: AppConfig) -> None:
    """Raise ConfigError for what does not go with trainer.context_parallel_size."""
    size = config.trainer.context_parallel_size
    if size < 1:
        raise ConfigError(f"{KEY}={size} must be 1 (whole rows), or how many processes share one.")
    if size == 1:
        return
    if isinstance(config.launch.nproc_per_node, int):
        check_world_size(size, config.launch.nproc_per_node * config.launch.nnodes)
    if config.rope.method in LENGTH_DEPENDENT_ROPE:
        raise ConfigError(
            f"{KEY}={size} does not go with rope.method={config.rope.method}, whose frequencies "
            "follow the longest position, which each part of a row has another of: use rope=yarn, "
            "or leave the parts out."
        )
    attention = config.model.attn_implementation
    if attention not in ("auto", "sft_packed"):
        raise ConfigError(
            f"{KEY}={size} needs the application's own attention, and model.attn_implementation="
            f"{attention} is another: leave it out."
        )
    for name, reason in EXTRA_OF_WHOLE_ROWS.items():
        if name in config.trainer.extra:
            raise ConfigError(f"trainer.extra.{name} does not go with {KEY}={size}: {reason}.")


def check_world_size(size: int, world_size: int) -> None:
    """Raise ConfigError unless groups of `size` processes can be made of `world_size`."""
    if world_size % size:
        raise ConfigError(
            f"{KEY}={size} needs a multiple of {size} processes, and there "
            f"{'is 1' if world_size == 1 else f'are {world_size}'}: set "
            f"launch.nproc_per_node={size}, or {KEY}={_largest_divisor(world_size, size)}."
        )


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, limit + 1) if number % d == 0)
