"""Datasets of the Hugging Face hub, through the optional library `datasets`."""

from collections.abc import Iterator
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.compat import dataset_internals
from sft_app.config.locations import hub_dataset
from sft_app.data.read.columnar import without_added_nulls
from sft_app.data.read.record import BadRecord, Record


def read_hub(name: str) -> Iterator[Record | BadRecord]:
    """Yield the rows of a dataset as `hub_dataset` reads its name."""
    for number, row in enumerate(_load(name), start=1):
        yield Record(without_added_nulls(row), f"{name} row {number}")


def hub_digest(name: str) -> str:
    """Return what changes with the content of the dataset, as far as the library can tell."""
    return dataset_internals.dataset_fingerprint(_load(name))


def _load(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{name} is not a file here, and hub datasets need the library datasets: "
            "pip install 'sft-app[hub]'"
        ) from error
    dataset = hub_dataset(name)
    assert dataset is not None, "resolve_sources lets no other name pass"
    try:
        return datasets.load_dataset(dataset.repository, dataset.config, split=dataset.split)
    except Exception as error:  # the library raises whatever its network stack does
        raise ConfigError(
            f"{name} is neither a file here nor a hub dataset that can be loaded: {error}"
        ) from error
