"""data.position_skipping=pose: what is drawn, and that packed rows are computed rightly."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import masking_utils

from sft_app.common.errors import ConfigError
from sft_app.compat import model_internals
from sft_app.config.schema.rope import RopeConfig
from sft_app.data.batches.skip_positions import draw_skip, skip_positions
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.training.attention.choose_attention import choose_attention, verify_attention
from sft_app.training.attention.document_bounds import lengths_from_positions
from sft_app.training.attention.known_batch import know_batch
from sft_app.training.attention.verify_skipped_positions import (
    check_positions_can_skip,
    verify_skipped_positions,
)
from tests.training.training_steps import collate, losses_of, packed_rows, prepared, trainer_of

TARGET = 200
LENGTHS = (14, 1, 9)


@pytest.fixture
def reads_restarts(monkeypatch):
    """The patch of compat, taken back at the end."""
    own = masking_utils.find_packed_sequence_indices
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", own)
    model_internals.read_documents_by_restarts()


def row_of(lengths):
    return torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)


def skipped(step=0, items=(0,), seed=1, lengths=LENGTHS):
    rows = row_of(lengths).repeat(len(items), 1)
    documents = [lengths] * len(items)
    return skip_positions(rows, items, documents, target=TARGET, seed=seed, step=step)


def test_a_document_leaves_out_one_stretch_and_stays_below_the_target():
    for step in range(200):
        positions = skipped(step)
        assert lengths_from_positions(positions) == list(LENGTHS)
        for document in positions[0].split(LENGTHS):
            jumps = document.diff()
            assert document[0] == 0 and document[-1] < TARGET
            assert (jumps >= 1).all() and (jumps > 1).sum() <= 1


def test_every_distance_of_the_target_is_met_and_evenly():
    """The last position is uniform over those that a document of 14 can end with."""
    draws = [draw_skip(14, TARGET, np.random.default_rng(seed)) for seed in range(20_000)]
    bends, biases = np.array(draws).T
    assert set(bends) == set(range(1, 14))
    assert biases.min() == 0 and biases.max() == TARGET - 14
    counts = np.histogram(biases, bins=11, range=(-0.5, TARGET - 14 + 0.5))[0]
    expected = len(biases) / 11
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 29.6, "the 99.9% point of chi-squared with 10 degrees of freedom"
    ends = (skipped(step, lengths=(14,))[0] for step in range(3000))
    distances = {int(positions[13] - positions[0]) for positions in ends}
    assert distances == set(range(13, TARGET))


def test_what_is_drawn_follows_from_seed_step_and_row_alone():
    both = skipped(step=3, items=(5, 8))
    assert torch.equal(both[:1], skipped(step=3, items=(5,)))
    assert torch.equal(both[1:], skipped(step=3, items=(8,)))
    for other in (skipped(step=4, items=(5,)), skipped(3, (6,)), skipped(3, (5,), seed=2)):
        assert not torch.equal(both[:1], other)


def test_a_document_of_the_targets_length_is_left_alone():
    row = row_of([20])
    assert torch.equal(skip_positions(row, [0], [[20]], target=20, seed=0, step=0), row)


def test_padding_keeps_its_positions():
    """Rows that are not packed are padded behind their only document."""
    row = torch.tensor([[0, 1, 2, 3, 0, 0]])
    moved = skip_positions(row, [0], [[4]], target=TARGET, seed=0, step=0)
    assert moved[0, 3] > 3 and moved[0, 4:].tolist() == [0, 0]


def dense_loss(model, row, positions, labels):
    """A plain eager model, told explicitly who may see whom: the sum over supervised tokens."""
    document = (row_of(LENGTHS)[0] == 0).cumsum(0)
    sees = torch.ones(row.shape[1], row.shape[1], dtype=torch.bool).tril()
    sees &= document[:, None] == document[None, :]
    mask = torch.zeros(1, 1, *sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    logits = model(row, attention_mask=mask, position_ids=positions, use_cache=False).logits
    return F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
def test_loss_and_gradients_are_those_of_a_dense_mask(
    random_model, reads_restarts, family, attention
):
    own, model = random_model(family, attention="eager"), random_model(family)
    plan = choose_attention(model.config, "cpu", attention or "auto")
    verify_attention(model, plan)
    row = torch.randint(1, 97, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    labels = row.masked_fill(row_of(LENGTHS) == 0, -100)
    positions = skipped(step=7)
    assert (positions.diff() > 1).any()

    expected = dense_loss(own, row, positions, labels)
    logits = model(row, position_ids=positions, use_cache=False).logits
    loss = F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    expected.backward()
    for ours, theirs in zip(model.parameters(), own.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4)


def test_jumps_read_as_documents_are_found_on_the_loaded_model(random_model, monkeypatch):
    model = random_model("llama")
    verify_attention(model, choose_attention(model.config, "cpu", "sdpa"))
    with pytest.raises(ConfigError, match="LlamaForCausalLM cannot"):
        verify_skipped_positions(model, model)  # transformers takes a jump for a new document
    own = masking_utils.find_packed_sequence_indices
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", own)
    model_internals.read_documents_by_restarts()
    assert "skipping moves the logits" in verify_skipped_positions(model, model)


@pytest.mark.parametrize(
    ("family", "why"),
    [("gpt2", "learned"), ("bloom", "ALiBi"), ("mistral", "see 6 tokens"), ("mamba2", "none")],
)
def test_models_in_which_it_means_nothing_are_refused(random_model, family, why):
    config = random_model(family).config
    with pytest.raises(ConfigError, match=why):
        check_positions_can_skip(config, plan_rope(config, 64, RopeConfig()))


def test_a_step_is_taken_at_the_positions_that_are_drawn(random_model, reads_restarts, tmp_path):
    rows = packed_rows(4)
    own = random_model("llama", attention="sdpa")
    batch = collate(rows)
    # The order of a batch does not matter to its loss, and each row is drawn by its own number.
    documents = know_batch(batch, [], range(4)).documents_of_rows()
    batch["position_ids"] = skip_positions(
        batch["position_ids"], range(4), documents, target=TARGET, seed=42, step=0
    )
    expected = own(**batch, num_items_in_batch=int((batch["labels"] != -100).sum())).loss
    trainer = trainer_of(
        prepared(random_model("llama")),
        tmp_path,
        rows,
        per_device_train_batch_size=4,
        position_target=TARGET,
    )
    trainer.args.seed = 42
    trainer.train()
    assert losses_of(trainer)[0] == pytest.approx(expected.item(), abs=1e-5)
