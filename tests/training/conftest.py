from collections.abc import Callable

import pytest
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.training.packing_census import tiny_model
from tests.training.random_models import RandomModel, build_random_model


@pytest.fixture
def random_model() -> RandomModel:
    return build_random_model


@pytest.fixture
def small_family() -> Callable[[str], PreTrainedModel]:
    """small_family("doge"): the tiny model of the census; skipped where transformers lacks it."""

    def build(family: str) -> PreTrainedModel:
        if family not in CONFIG_MAPPING:
            pytest.skip(f"this transformers knows no {family}")
        model = tiny_model(family)
        assert model is not None, f"{family} is not built tiny any more"
        return model

    return build
