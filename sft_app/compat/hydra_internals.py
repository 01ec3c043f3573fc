"""What Hydra and OmegaConf have no public name for, and what differs between their versions."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""The `_target_` of Hydra's default sweeper, whose jobs can be listed in advance."""


def split_sweep(overrides: list[Any]) -> list[list[str]]:
    """Return the overrides of each job of a sweep, in the order in which Hydra starts them.

    `overrides` are parsed ones (hydra.core.override_parser.types.Override).
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


@contextmanager
def hydra_exceptions_pass() -> Iterator[None]:
    """Let what is raised below @hydra.main reach its caller; Hydra prints it and exits with 1."""
    from hydra._internal import utils

    before = utils.run_and_report
    utils.run_and_report = lambda func: func()
    try:
        yield
    finally:
        utils.run_and_report = before


@contextmanager
def writable_overrides(master: Any) -> Iterator[Any]:
    """Give the overrides from which the jobs of a sweep are composed, to be added to.

    From Hydra 1.4 on they are read-only one by one, not only with the configuration around them;
    until 1.4 is the oldest supported version.
    """
    from omegaconf import read_write

    overrides = master.hydra.overrides
    with read_write(master), read_write(overrides), ExitStack() as stack:
        for words in overrides.values():
            stack.enter_context(read_write(words))
        yield overrides


def register_resolver(name: str, function: Any) -> None:
    """Let configurations interpolate `${name:...}`; OmegaConf 2.4 has another word for it."""
    from omegaconf import OmegaConf

    register: Any = getattr(OmegaConf, "register_resolver", None)
    if register is not None and "replace" in inspect.signature(register).parameters:
        register(name, function, replace=True)
    else:  # before 2.4, where that name is an older function's
        OmegaConf.register_new_resolver(name, function, replace=True)


def sweep_config_loader() -> Any:
    """Return the loader that composes the jobs of the sweep that Hydra is starting."""
    from hydra.core.global_hydra import GlobalHydra

    return GlobalHydra.instance().config_loader()
