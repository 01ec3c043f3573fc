"""What a sweep adds to the overrides of its jobs, whatever Hydra protects."""

from omegaconf import OmegaConf

from sft_app.launch.sweep.compose_jobs import add_hydra_override, add_task_override


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
