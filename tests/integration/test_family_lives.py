"""Families of every kind are trained, gone on with, recomputed and adapted by the real command."""

from pathlib import Path

import pytest

from tests.integration.family_lives import live


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "recomputes"),
    [
        ("mamba2", True),  # no attention
        ("falcon", True),  # linear layers of a class of its own
        ("deepseek_v3", True),  # latent attention, experts and shared ones
        ("qwen3_next", True),  # a hybrid, with experts
        ("diffllama", True),  # a norm without a weight
        ("openai-gpt", False),
    ],
)
def test_a_family_keeps_its_bits_through_its_whole_life(
    tmp_path: Path, family: str, recomputes: bool
) -> None:
    life = live(family, tmp_path)
    assert life is not None
    assert (life.trained, life.adapted) == ("completed", "completed"), life
    assert life.keeps_names and life.resumed == 0.0, life
    if recomputes:
        assert life.recomputed == 0.0
    else:
        assert "trainer.gradient_checkpointing=true" in str(life.recomputed)
