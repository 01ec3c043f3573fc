"""What tests of sharded models (FSDP, tensor parallel) need of transformers."""

import pytest

from sft_app import compat

NEEDS_SHARDED_MODELS = pytest.mark.skipif(
    not compat.trainer_takes_sharded_models(),
    reason="transformers before 5.23 trains no model that others have sharded",
)
