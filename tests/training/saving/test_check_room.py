"""Room on the disk is asked for before weights are loaded: Adam in float32 takes 12 N bytes."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from sft_app.config.schema.app import AppConfig
from sft_app.records import disk_space
from sft_app.records.disk_space import DiskFull
from sft_app.training.model_plan import ModelPlans
from sft_app.training.saving import check_room as room
from sft_app.training.saving.check_room import bytes_to_write, check_room

N = 1000
PLANS = cast(
    ModelPlans,
    SimpleNamespace(
        memory=SimpleNamespace(num_parameters=N, num_trainable_parameters=N, optimizer=8 * N // 4),
        precision=SimpleNamespace(parameters=torch.float32, saved=torch.bfloat16),
        parallel=SimpleNamespace(num_shards=4),
    ),
)


def test_the_shards_of_all_ranks_are_written() -> None:
    assert bytes_to_write(PLANS) == (2 * N, 12 * N)


@pytest.mark.parametrize(
    ("free", "overrides", "refused", "warned"),
    [
        (2 * N + 36 * N, (), False, False),
        (2 * N + 36 * N - 1, (), False, True),
        (2 * N + 36 * N - 1, ("trainer.save_total_limit=1",), False, False),
        (2 * N + 12 * N - 1, (), True, False),
        (2 * N, ("trainer.save_strategy=no",), False, False),
        (2 * N - 1, ("trainer.save_strategy=no",), True, False),
    ],
)
def test_too_little_is_refused_and_little_is_warned_of(
    compose: Callable[..., AppConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    overrides: tuple[str, ...],
    refused: bool,
    warned: bool,
) -> None:
    for module in (room, disk_space):
        monkeypatch.setattr(module, "free_bytes", lambda folder: free)
    config = compose("trainer.save_total_limit=2", *overrides)
    told: Any = None
    with caplog.at_level(logging.WARNING):
        try:
            check_room(config, PLANS, tmp_path)
        except DiskFull as error:
            told = error
    assert (told is not None) is refused
    assert ("too little room" in caplog.text) is warned
    (tmp_path / "checkpoints/checkpoint-3").mkdir(parents=True)
    check_room(config, PLANS, tmp_path)  # goes on
