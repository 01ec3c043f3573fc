"""rope.method=extend_positions: a learned table is interpolated, and the model still runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.interpolate_table import interpolated_table
from sft_app.loader.rope.rope_plan import plan_rope

MakeCheckpoint = Callable[..., ModelConfig]
EXTEND = RopeConfig(method=RopeMethod.extend_positions)


@pytest.mark.parametrize(("old", "new", "offset"), [(4, 7, 0), (64, 100, 2), (64, 4096, 2)])
def test_a_row_is_the_mean_of_its_two_neighbours_weighted_by_nearness(
    old: int, new: int, offset: int
) -> None:
    """Position p reads the old table at p (m - 1) / (n - 1)."""
    table = torch.randn(old + offset, 5, dtype=torch.float64)
    ours = interpolated_table(table, new, offset).numpy()
    rows = table.numpy()[offset:]
    at = np.arange(new) * (old - 1) / (new - 1)
    expected = np.stack([np.interp(at, np.arange(old), rows[:, c]) for c in range(5)], axis=1)
    np.testing.assert_allclose(ours[offset:], expected, atol=1e-12)
    np.testing.assert_array_equal(ours[:offset], table.numpy()[:offset])
    np.testing.assert_allclose(ours[[offset, -1]], rows[[0, -1]], atol=1e-12)
    assert len({row.tobytes() for row in ours}) == new + offset  # no two positions alike


@pytest.mark.parametrize(
    ("family", "table", "offset"),
    [
        ("opt", "model.decoder.embed_positions", 2),
        ("gpt2", "transformer.wpe", 0),
        ("gpt_neo", "transformer.wpe", 0),
    ],
)
def test_a_model_with_an_extended_table_trains_saves_and_reloads(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, family: str, table: str, offset: int
) -> None:
    checkpoint = make_checkpoint(family)
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, 100, EXTEND)
    assert (plan.method, plan.table, plan.table_offset) == ("extend_positions", table, offset)
    assert "fine-tuning" in plan.warnings[0]

    model = load_model(checkpoint, config, plan)
    assert model.get_submodule(table).weight.shape[0] == 100 + offset
    assert model.config.max_position_embeddings == 100
    original = AutoModelForCausalLM.from_pretrained(checkpoint.name_or_path)
    expected = interpolated_table(original.get_submodule(table).weight.detach(), 100, offset)
    assert torch.equal(model.get_submodule(table).weight, expected)
    # Every other weight is the checkpoint's.
    weights = model.state_dict()
    for name, weight in original.state_dict().items():
        assert name == f"{table}.weight" or torch.equal(weight, weights[name]), name

    ids = torch.randint(3, 90, (1, 100))
    model(input_ids=ids, labels=ids).loss.backward()
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits
        assert torch.equal(logits, reloaded(input_ids=ids, use_cache=False).logits)


def test_the_first_and_the_last_position_keep_their_meaning(
    make_checkpoint: MakeCheckpoint,
) -> None:
    """One token at position 0 sees nothing but itself: the logits are the checkpoint's."""
    checkpoint = make_checkpoint("opt")
    config = load_pretrained_config(checkpoint)
    model = load_model(checkpoint, config, plan_rope(config, 100, EXTEND)).eval()
    original = AutoModelForCausalLM.from_pretrained(checkpoint.name_or_path).eval()
    token = torch.tensor([[7]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=token).logits, original(input_ids=token).logits)


def test_a_length_that_fits_leaves_the_table_alone(make_checkpoint: MakeCheckpoint) -> None:
    config = load_pretrained_config(make_checkpoint("opt"))
    assert not plan_rope(config, 64, EXTEND).changed


def test_a_table_of_sines_cannot_be_extended(make_checkpoint: MakeCheckpoint) -> None:
    config = load_pretrained_config(make_checkpoint("gptj"))
    with pytest.raises(ConfigError, match="ends at 64 positions"):
        plan_rope(config, 100, EXTEND)
