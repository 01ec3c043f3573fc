"""Which settings go with context parallelism (sequence shards) and tensor parallelism."""

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.rope import RopeMethod
from sft_app.config.schema.trainer import Parallelism

CONTEXT = "trainer.context_parallel_size"
REPLICAS = "trainer.fsdp_replicas"
TENSOR = "trainer.tensor_parallel_size"

LENGTH_DEPENDENT_ROPE = (RopeMethod.dynamic, RopeMethod.longrope)
"""Frequencies that follow the largest position of a forward, which differs between shards."""
OWN_ATTENTION = ("auto", "sft_packed")
TENSOR_PARALLEL_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd")
"""Verified with tensor-parallel shards; others need whole matrices, or all parameters at once."""
OF_WHOLE_ROWS = {
    "label_smoothing_factor": "the Trainer shifts the labels of each shard by itself",
    "neftune_noise_alpha": "the noise is scaled by the length of a shard",
}
OF_OWN_BATCHES = {
    "train_sampling_strategy": "its batches are made for processes that share none",
    "accelerator_config": "the application itself assigns batches to data-parallel ranks",
}
"""Names in trainer.extra that do not go with them, and why."""


def check_parallel(config: AppConfig) -> None:
    """Raise ConfigError for what does not go with sequence shards or tensor-parallel shards."""
    _check_replicas(config)
    if config.trainer.context_parallel_size > 1:
        _check_context(config)
    if config.trainer.tensor_parallel_size > 1:
        _check_tensor(config)


def _check_replicas(config: AppConfig) -> None:
    replicas = config.trainer.fsdp_replicas
    if replicas == 1:
        return
    if config.trainer.parallelism is not Parallelism.fsdp:
        raise ConfigError(
            f"{REPLICAS}={replicas} has no effect without trainer.parallelism=fsdp: every process "
            "has a copy of its own."
        )
    if (world_size := _world_size(config)) is not None:
        check_fsdp_replicas(replicas, world_size)


def check_fsdp_replicas(replicas: int, world_size: int) -> None:
    """Raise ConfigError unless `world_size` processes can hold so many copies of the shards.

    A single process, as sft-plan is, shards nothing.
    """
    if world_size > 1 and world_size % replicas:
        raise ConfigError(
            f"{REPLICAS}={replicas} must divide the processes, and {_there_are(world_size)}: set "
            f"{REPLICAS}={_largest_divisor(world_size, replicas)}."
        )


def _check_context(config: AppConfig) -> None:
    size = config.trainer.context_parallel_size
    if (world_size := _world_size(config)) is not None:
        check_world_size(size, world_size)
    if config.rope.method in LENGTH_DEPENDENT_ROPE:
        raise ConfigError(
            f"{CONTEXT}={size} does not go with rope.method={config.rope.method}, whose "
            "frequencies follow the longest position, which differs between sequence shards: use "
            f"rope=yarn, or {CONTEXT}=1."
        )
    attention = config.model.attn_implementation
    if attention not in OWN_ATTENTION:
        raise ConfigError(
            f"{CONTEXT}={size} needs the application's own attention, and "
            f"model.attn_implementation={attention} is another: leave it out."
        )
    not_verified = {
        "adapter.method=qlora": config.adapter.method is AdapterMethod.qlora,
        "trainer.torch_compile=true": config.trainer.torch_compile,
    }
    _refuse_not_verified(f"{CONTEXT}={size}", not_verified)
    _check_extra(config, f"{CONTEXT}={size}", OF_WHOLE_ROWS | OF_OWN_BATCHES)


def _check_tensor(config: AppConfig) -> None:
    trainer, size = config.trainer, config.trainer.tensor_parallel_size
    if (world_size := _world_size(config)) is not None:
        check_tensor_parallel_size(size, world_size)
    not_verified = {
        f"{CONTEXT}={trainer.context_parallel_size}": trainer.context_parallel_size > 1,
        "trainer.parallelism=fsdp": trainer.parallelism is Parallelism.fsdp,
        f"adapter.method={config.adapter.method}": config.adapter.method is not AdapterMethod.none,
        "trainer.fp16=true": trainer.fp16,
        "trainer.torch_compile=true": trainer.torch_compile,
        f"model.gguf_file={config.model.gguf_file}": config.model.gguf_file is not None,
    }
    _refuse_not_verified(f"{TENSOR}={size}", not_verified)
    if trainer.optim not in TENSOR_PARALLEL_OPTIMIZERS:
        raise ConfigError(
            f"{TENSOR}={size} is not verified with trainer.optim={trainer.optim}: use one of "
            f"{', '.join(TENSOR_PARALLEL_OPTIMIZERS)}."
        )
    _check_extra(config, f"{TENSOR}={size}", OF_OWN_BATCHES)


def _refuse_not_verified(key: str, settings: dict[str, bool]) -> None:
    for setting, asked_for in settings.items():
        if asked_for:
            raise ConfigError(f"{key} is not verified with {setting}: keep one of them.")


def _check_extra(config: AppConfig, setting: str, excluded: dict[str, str]) -> None:
    for name, reason in excluded.items():
        if name in config.trainer.extra:
            raise ConfigError(f"trainer.extra.{name} does not go with {setting}: {reason}.")


def _world_size(config: AppConfig) -> int | None:
    """Return the number of processes; None where it is that of the GPUs, which workers see."""
    nproc = config.launch.nproc_per_node
    return nproc * config.launch.nnodes if isinstance(nproc, int) else None


def check_world_size(size: int, world_size: int) -> None:
    """Raise ConfigError unless groups that share rows can be made of `world_size` processes."""
    if world_size % size:
        raise ConfigError(
            f"{CONTEXT}={size} needs a multiple of {size} processes, and {_there_are(world_size)}: "
            f"set launch.nproc_per_node={size}, or {CONTEXT}={_largest_divisor(world_size, size)}."
        )


def check_tensor_parallel_size(size: int, world_size: int) -> None:
    """Raise ConfigError unless all processes share each matrix, or none does."""
    if size not in (1, world_size):
        raise ConfigError(
            f"{TENSOR}={size} takes {size} processes in all, and {_there_are(world_size)}: set "
            f"launch.nproc_per_node={size}, or use trainer.parallelism=fsdp, which shards the "
            "weights over any number."
        )


def _there_are(world_size: int) -> str:
    return "there is 1" if world_size == 1 else f"there are {world_size}"


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, limit + 1) if number % d == 0)
