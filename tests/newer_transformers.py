"""What older versions of transformers that we support cannot do, and tests leave out with them."""

import pytest
from transformers import masking_utils

from sft_app import compat

NEEDS_SHARDED_MODELS = pytest.mark.skipif(
    not compat.trainer_takes_sharded_models(),
    reason="transformers before 5.23 trains no model that others have sharded",
)
CHUNKS_RESTART_WITH_DOCUMENTS = hasattr(masking_utils, "remap_positions_for_packed_sequence")
"""Llama-4's: before 5.23 they are cut of the row, so that such a model is not packed."""
