"""What older versions of transformers that we support cannot do, and tests leave out with them."""

import inspect

import pytest
from transformers import masking_utils
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

from sft_app.compat import model_internals
from sft_app.config.schema.app import AppConfig

NEEDS_SHARDED_MODELS = pytest.mark.skipif(
    not model_internals.trainer_takes_sharded_models(),
    reason="transformers before 5.23 trains no model that others have sharded",
)


def skip_if_it_needs_sharded_models(config: AppConfig) -> None:
    """For tests of configurations that come with the project, whatever they hold."""
    if config.trainer.parallelism == "fsdp" and not model_internals.trainer_takes_sharded_models():
        pytest.skip(NEEDS_SHARDED_MODELS.kwargs["reason"])


CONVOLUTIONS_TAKE_DOCUMENTS = any(
    parameter.kind is inspect.Parameter.VAR_KEYWORD
    for parameter in inspect.signature(Lfm2ShortConv.forward).parameters.values()
)
"""LFM2's are told them by keywords: older ones are called once per document."""
NEEDS_TOLD_CONVOLUTIONS = pytest.mark.skipif(
    not CONVOLUTIONS_TAKE_DOCUMENTS,
    reason="this transformers tells LFM2's convolutions no documents",
)
CHUNKS_RESTART_WITH_DOCUMENTS = hasattr(masking_utils, "remap_positions_for_packed_sequence")
"""Llama-4's: before 5.23 they are cut of the row, so that such a model is not packed."""
