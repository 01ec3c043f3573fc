"""One table has the range of every number; what no range holds is refused."""

import dataclasses
import math
import typing

import pytest

from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.number_ranges import NUMBER_RANGES


def number_settings() -> list[str]:
    """Every key whose type holds a number, by the schema alone."""
    found = []
    for group in dataclasses.fields(AppConfig):
        fields = dataclasses.fields(group.type) if dataclasses.is_dataclass(group.type) else [group]
        for field in fields:
            prefix = "" if field is group else f"{group.name}."
            kinds = {field.type, *typing.get_args(field.type)}
            lists = {kind for one in kinds for kind in typing.get_args(one)}
            if {int, float} & (kinds | lists):
                found.append(f"{prefix}{field.name}")
    return found


def test_every_number_has_its_range() -> None:
    assert {"seed", "launch.timeout", "sweep.lengths"} <= set(number_settings())
    assert not set(number_settings()) - set(NUMBER_RANGES)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -2.0, 1e39])
def test_no_range_holds_what_is_no_number_to_compute_with(number: float) -> None:
    assert not [key for key, allowed in NUMBER_RANGES.items() if number in allowed]
