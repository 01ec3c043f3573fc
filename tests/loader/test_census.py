"""Every causal-LM family that transformers knows, with its default configuration."""

import pytest
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.rope.model_context import read_context
from sft_app.loader.rope.positions import PositionKind, detect_positions
from sft_app.loader.rope.rope_plan import plan_rope

pytestmark = pytest.mark.slow

# Read off their modelling code; whatever is not here rotates.
ALIBI = {"bloom", "mpt"}
ROTARY_TABLE = {"codegen", "gptj"}
SINUSOIDAL = {"ctrl", "marian", "pegasus", "xglm"}
LEARNED = {
    "bart", "bigbird_pegasus", "biogpt", "blenderbot", "blenderbot-small", "git", "gpt-sw3", "gpt2",
    "gpt_bigcode", "gpt_neo", "mbart", "mvp", "openai-gpt", "opt", "plbart", "prophetnet", "trocr",
    "whisper", "xlm",
}  # fmt: skip
NO_POSITIONS = {
    "cpmant", "falcon_mamba", "granitemoehybrid", "inkling2_text", "inkling_text", "jamba",
    "kimi_linear", "mamba", "mamba2", "nemotron_h", "rwkv", "xlnet", "xlstm", "zamba", "zamba2",
}  # fmt: skip
ENCODERS = {
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie",
    "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
FIXED_FREQUENCIES = {"blt", "recurrent_gemma"}
OWN_RULES = {"phi3", "phi4_multimodal", "phimoe"}
"""Their configurations accept longrope and nothing else."""


def expected_kind(family: str) -> PositionKind:
    for kind, families in (
        (PositionKind.alibi, ALIBI),
        (PositionKind.rotary_table, ROTARY_TABLE),
        (PositionKind.sinusoidal, SINUSOIDAL),
        (PositionKind.learned, LEARNED),
        (PositionKind.none, NO_POSITIONS),
    ):
        if family in families:
            return kind
    return PositionKind.rotary


def default_config(family: str) -> PretrainedConfig:
    """Skips families whose defaults are no model (fields that only a checkpoint fills in)."""
    try:
        config = CONFIG_MAPPING[family]()
        detect_positions(config)
    except ConfigError as error:
        if "is an encoder" not in str(error):
            pytest.skip("its default configuration cannot be built")
    except Exception:
        pytest.skip("it has no default configuration")
    return config


@pytest.mark.parametrize("family", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_positions_are_recognised_and_every_rotary_family_takes_linear_and_llama3(
    family: str,
) -> None:
    """Planning compares the rotary module's real frequencies with the closed form."""
    config = default_config(family)
    if family in ENCODERS:
        with pytest.raises(ConfigError, match="is an encoder"):
            detect_positions(config)
        return
    positions = detect_positions(config)
    assert positions.kind == expected_kind(family)
    if positions.kind != PositionKind.rotary or family in FIXED_FREQUENCIES:
        return
    if any(dim % 4 for dim in positions.rotary_dims.values()):
        pytest.skip("the default configuration has an odd number of rotated dimensions")
    context = read_context(config.get_text_config(decoder=True))
    assert context.effective is not None
    assert not plan_rope(config, 16, RopeConfig()).changed  # compared as well, and left alone
    for method in (RopeMethod.linear, RopeMethod.llama3):
        rope = RopeConfig(method=method, force=True)
        only_linear = context.rope_type == "proportional" and method != RopeMethod.linear
        if family in OWN_RULES or only_linear:
            with pytest.raises(ConfigError, match=r"does not work with|use rope=linear"):
                plan_rope(config, 2 * context.effective, rope)
        else:
            plan = plan_rope(config, 2 * context.effective, rope)
            assert plan.effective_context_length is not None
            assert plan.effective_context_length >= 2 * context.effective
