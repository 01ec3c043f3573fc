"""Two ranks: one reads the checkpoint, the other receives it, and both hold the same model once."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch

from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model import load_model as loading
from sft_app.loader.rope.rope_plan import plan_rope
from tests.forked_ranks import on_two_forked_ranks

MakeCheckpoint = Callable[..., ModelConfig]


def loaded(checkpoint: ModelConfig, length: int) -> tuple[Any, ...]:
    """Load on this rank; how many checkpoints it read, and what it then held."""
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, length, RopeConfig())
    with mock.patch.object(loading, "_from_pretrained", wraps=loading._from_pretrained) as read:
        model = loading.load_model(checkpoint, config, plan)
    weights = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    buffers = {name: t.numpy().copy() for name, t in model.named_buffers()}
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    ids = torch.arange(length)[None] % 90
    logits = model(input_ids=ids).logits.detach().numpy()
    return read.call_count, weights, buffers, tied, model.training, logits


@pytest.mark.parametrize(
    ("family", "length", "tied"), [("llama", 128, False), ("qwen2", 128, True), ("gptj", 64, False)]
)
def test_one_rank_reads_and_the_other_receives(
    make_checkpoint: MakeCheckpoint, family: str, length: int, tied: bool
) -> None:
    changes = {"tie_word_embeddings": True} if tied else {}
    checkpoint = make_checkpoint(family, **changes)
    reader, receiver = on_two_forked_ranks(loaded, checkpoint, length)
    assert (reader[0], receiver[0]) == (1, 0)  # checkpoints read
    for read, received in ((reader[1], receiver[1]), (reader[2], receiver[2])):
        assert read.keys() == received.keys()
        assert all((read[name] == received[name]).all() for name in read)
    assert reader[3] is receiver[3] is tied
    assert reader[4] == receiver[4]
    assert (reader[5] == receiver[5]).all()
