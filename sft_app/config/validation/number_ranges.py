"""The range of every number, in one table: for the check, for --help and for the JSON schema."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `above`."""

    low: float
    high: float
    above: bool = False
    """`low` itself is outside."""
    or_else: float | None = None
    """One number outside that has a meaning of its own, such as -1."""

    def __contains__(self, number: float) -> bool:
        """Tell whether `number` is allowed; nan and infinities never are."""
        if not math.isfinite(number):
            return False
        inside = self.low < number if self.above else self.low <= number
        return (inside and number <= self.high) or number == self.or_else

    def __str__(self) -> str:
        """Return the range in words: `from 1 to 64`, `above 0`, `from 1, or -1`."""
        start = f"above {_plain(self.low)}" if self.above else f"from {_plain(self.low)}"
        limited = self.high not in (MOST, LARGEST_FLOAT)
        end = (f", at most {_plain(self.high)}" if self.above else f" to {_plain(self.high)}") * (
            limited
        )
        return start + end + (f", or {_plain(self.or_else)}" if self.or_else is not None else "")


MOST = 2**31 - 1
LARGEST_FLOAT = 1e30

COUNT = Range(1, MOST)
COUNT_OR_NONE = Range(0, MOST)
TOKENS = Range(1, 2**31 - 1)
AMOUNT_OF_TOKENS = Range(1, 2**53)
SEED = Range(0, 2**32 - 1)
SHARE = Range(0, 1)
BETA = Range(0, 0.999999)
"""With 1 Adam would forget nothing, and never move."""
POSITIVE = Range(0, LARGEST_FLOAT, above=True)
NOT_NEGATIVE = Range(0, LARGEST_FLOAT)
SECONDS = Range(1, 10**7)

NUMBER_RANGES: dict[str, Range] = {
    "context_length": Range(8, MOST),
    "seed": SEED,
    "model.original_context_length": TOKENS,
    "tokenizer.model_max_length": TOKENS,
    "rope.factor": Range(1, 1e6),
    "rope.theta": Range(1, 1e15, above=True),
    "rope.attention_factor": POSITIVE,
    "rope.beta_fast": POSITIVE,
    "rope.beta_slow": POSITIVE,
    "rope.mscale": NOT_NEGATIVE,
    "rope.mscale_all_dim": NOT_NEGATIVE,
    "rope.low_freq_factor": POSITIVE,
    "rope.high_freq_factor": POSITIVE,
    "rope.short_factor": POSITIVE,
    "rope.long_factor": POSITIVE,
    "data.eval_examples": COUNT_OR_NONE,
    "sweep.rungs": Range(1, 20),
    "sweep.keep_one_in": Range(2, 1000),
    "sweep.rung": COUNT_OR_NONE,
    "data.max_examples": COUNT,
    "data.position_target": COUNT,
    "data.split_seed": SEED,
    "data.num_proc": Range(1, 4096),
    "data.preview": COUNT_OR_NONE,
    "trainer.num_train_epochs": Range(0, 1e6, above=True),
    "trainer.max_steps": Range(1, MOST, or_else=-1),
    "trainer.per_device_train_batch_size": COUNT,
    "trainer.gradient_accumulation_steps": COUNT,
    "trainer.learning_rate": Range(0, 1e38, above=True),
    "trainer.warmup_steps": Range(0, MOST),
    "trainer.weight_decay": Range(0, 1e6),
    "trainer.adam_beta1": BETA,
    "trainer.adam_beta2": BETA,
    "trainer.adam_epsilon": Range(0, 1),
    "trainer.max_grad_norm": NOT_NEGATIVE,
    "trainer.logging_steps": COUNT,
    "trainer.save_steps": Range(0, MOST, above=True),
    "trainer.save_total_limit": COUNT,
    "trainer.eval_steps": Range(0, MOST, above=True),
    "trainer.early_stopping_patience": COUNT,
    "trainer.loss_spike_threshold": POSITIVE,
    "trainer.loss_spike_window": Range(2, 10**6),
    "trainer.max_rewinds": COUNT,
    "trainer.dataloader_num_workers": Range(0, 4096),
    "trainer.fsdp_replicas": Range(1, 65536),
    "trainer.context_parallel_size": Range(1, 65536),
    "trainer.tensor_parallel_size": Range(1, 65536),
    "adapter.rank": Range(1, 65536),
    "adapter.alpha": POSITIVE,
    "adapter.dropout": Range(0, 0.999),
    "launch.nnodes": Range(1, 65536),
    "launch.nproc_per_node": Range(1, 1024),
    "launch.node_rank": Range(0, 65535),
    "launch.rdzv_timeout_seconds": SECONDS,
    "launch.cpu_threads": Range(1, 4096),
    "launch.shutdown_grace_seconds": Range(0, 10**6),
    "launch.timeout": Range(0, 10**6),
    "launch.model_timeout": Range(0, 10**6),
    "plan.gpus": Range(1, 65536),
    "plan.utilisation": Range(0, 1, above=True),
    "evaluation.max_examples": COUNT,
    "evaluation.max_tokens": AMOUNT_OF_TOKENS,
    "evaluation.batch_size": COUNT,
    "evaluation.lengths": Range(2, MOST),
    "evaluation.max_times_context": COUNT,
    "evaluation.max_documents": COUNT,
    "evaluation.samples": COUNT,
    "evaluation.stride": COUNT,
    "evaluation.max_windows": COUNT,
    "sweep.tokens": AMOUNT_OF_TOKENS,
    "sweep.supervised_tokens": AMOUNT_OF_TOKENS,
    "sweep.tokens_per_step": AMOUNT_OF_TOKENS,
    "sweep.lengths": Range(2, MOST),
    "sweep.heldout_length": Range(2, MOST),
}
"""Key -> its range; for a list, that of each of its members."""


def check_numbers(config: AppConfig) -> None:
    """Raise ConfigError for the first number that is out of its range, or no finite number."""
    for key, allowed in NUMBER_RANGES.items():
        for number in _numbers_in(_value(config, key)):
            if number not in allowed:
                raise ConfigError(f"{key}={_plain(number)} must be a number {allowed}.")
    for key, value in _open_values(config):
        for number in _numbers_in(value):
            if not math.isfinite(number):
                raise ConfigError(f"{key}={number} is no finite number: give one.")


def _value(config: AppConfig, key: str) -> Any:
    group, _, name = key.rpartition(".")
    return getattr(getattr(config, group) if group else config, name, None)


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list):
        for member in value:
            yield from _numbers_in(member)
    elif isinstance(value, dict):
        yield from _numbers_in(list(value.values()))


def _open_values(config: AppConfig) -> Iterator[tuple[str, Any]]:
    """Yield what a user can fill freely: mappings and lists of them."""
    for group in dataclasses.fields(config):
        settings = getattr(config, group.name)
        if dataclasses.is_dataclass(settings):
            for field in dataclasses.fields(settings):
                value = getattr(settings, field.name)
                if isinstance(value, dict | list):
                    yield f"{group.name}.{field.name}", value


def _plain(number: float) -> str:
    return f"{number:,}".replace(",", "") if isinstance(number, int) else f"{number:g}"
