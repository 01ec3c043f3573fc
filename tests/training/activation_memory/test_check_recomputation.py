"""trainer.gradient_checkpointing: families that cannot recompute are refused before loading."""

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sft_app.common.errors import ConfigError
from sft_app.training.activation_memory.check_recomputation import (
    can_recompute,
    check_recomputation,
)


@pytest.mark.parametrize("family", ["llama", "mamba", "gpt2", "ctrl", "gpt_neox_japanese"])
def test_a_family_is_refused_where_transformers_refuses_its_model(small_family, family) -> None:
    model = small_family(family)
    try:
        model.gradient_checkpointing_enable()
    except ValueError:
        assert not can_recompute(model.config)
    else:
        assert can_recompute(model.config)


def test_the_sentence_names_the_setting_and_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.gradient_checkpointing=true: .* of ctrl .*"):
        check_recomputation(CONFIG_MAPPING["ctrl"]())
    check_recomputation(CONFIG_MAPPING["llama"]())
