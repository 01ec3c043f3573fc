import pytest

from tests.training.random_models import RandomModel, build_random_model


@pytest.fixture
def random_model() -> RandomModel:
    return build_random_model
