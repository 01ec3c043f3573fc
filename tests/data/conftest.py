import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tokenizers_for_tests import byte_level


@pytest.fixture(scope="session")
def tokenizer():
    return byte_level()
