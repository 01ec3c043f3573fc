"""What a sweep adds to the overrides of its jobs, whatever Hydra protects."""

import pytest
from omegaconf import OmegaConf

from sft_app.common.errors import ConfigError
from sft_app.launch.sweep.compose_jobs import (
    add_hydra_override,
    add_task_override,
    check_one_folder,
)


@pytest.mark.parametrize("key", ["sweep.name", "run.name"])
def test_the_name_of_the_folder_does_not_vary(key: str) -> None:
    """It would be ignored: each job ran once for each name, with the same settings."""
    check_one_folder({"seed", "rope"})
    with pytest.raises(ConfigError, match=f"{key} has several values"):
        check_one_folder({"seed", key})


def test_overrides_that_are_read_only_one_by_one_take_more() -> None:
    """As Hydra 1.4 makes them."""
    master = OmegaConf.create({"hydra": {"overrides": {"hydra": ["a=1"], "task": []}}})
    for words in master.hydra.overrides.values():
        OmegaConf.set_readonly(words, True)
    OmegaConf.set_readonly(master, True)
    add_hydra_override(master, "b=2")
    add_task_override(master, "seed=3")
    assert list(master.hydra.overrides.hydra) == ["a=1", "b=2"]
    assert list(master.hydra.overrides.task) == ["seed=3"]
    assert OmegaConf.is_readonly(master.hydra.overrides.task)
