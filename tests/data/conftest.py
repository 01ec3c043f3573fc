import json

import pytest

from tests.data.chat_files import sharegpt
from tests.data.tokenizers_for_tests import byte_level


@pytest.fixture(scope="session")
def tokenizer():
    return byte_level()


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([sharegpt(n, turns=1 + n % 4) for n in range(60)], indent=1))
    return path
