"""Choosing conversations by seed and content."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sft_app.data.batches.train_eval_split import choose, copies, lowest


def pick(keys, weights=None, **settings):
    values = {"seed": 1, "eval_examples": 0, "max_examples": None} | settings
    weights = np.ones(len(keys)) if weights is None else np.array(weights, float)
    return choose(np.arange(len(keys)), np.array(keys, np.uint64), weights, **values)


KEYS = [7919 * n + 13 for n in range(300)]


def test_everything_is_used_once_in_file_order_without_limits():
    assert pick(KEYS).train.tolist() == list(range(300))


def test_held_out_and_training_rows_are_disjoint_and_together_everything():
    choice = pick(KEYS, eval_examples=30)
    assert len(choice.eval) == 30
    assert sorted([*choice.eval, *choice.train]) == list(range(300))


def test_duplicates_of_held_out_conversations_are_not_trained_on():
    choice = pick(KEYS + KEYS, eval_examples=31)
    held = {(KEYS + KEYS)[row] for row in choice.eval}
    assert not held & {(KEYS + KEYS)[row] for row in choice.train}


def test_the_choice_depends_on_the_seed_and_not_on_the_order():
    chosen = {KEYS[row] for row in pick(KEYS, max_examples=20).train}
    backwards = KEYS[::-1]
    assert chosen == {backwards[row] for row in pick(backwards, max_examples=20).train}
    assert chosen != {KEYS[row] for row in pick(KEYS, max_examples=20, seed=2).train}


def test_weights_repeat_and_thin_out():
    rows = pick(KEYS, weights=[2.0] * 150 + [0.5] * 150).train
    assert (rows < 150).sum() == 300
    assert 50 < (rows >= 150).sum() < 100


def test_max_examples_counts_repeats():
    assert len(pick(KEYS, weights=[2.5] * 300, max_examples=101).train) == 101


def test_the_examples_of_one_conversation_stay_together():
    conversation, key = np.array([1, 1, 2, 3, 3]), np.array([5, 5, 6, 7, 7], np.uint64)
    choice = choose(conversation, key, np.ones(5), seed=1, eval_examples=1, max_examples=None)
    assert not set(conversation[choice.eval]) & set(conversation[choice.train])


@given(st.lists(st.integers(0, 20)), st.integers(0, 12))
def test_lowest_keeps_the_lowest_ranks_in_the_order_they_came(ranks, count):
    kept = list(lowest(((rank, number) for number, rank in enumerate(ranks)), count))
    assert kept == sorted(sorted(range(len(ranks)), key=lambda n: (ranks[n], n))[:count])


def test_choosing_before_tokenising_is_choosing_after():
    limited = list(lowest(((rank_of(key), row) for row, key in enumerate(KEYS)), 50))
    before = pick([KEYS[row] for row in limited], eval_examples=20, max_examples=30)
    after = pick(KEYS, eval_examples=20, max_examples=30)
    assert [limited[row] for row in before.train] == after.train.tolist()
    assert [limited[row] for row in before.eval] == after.eval.tolist()


def rank_of(key):
    from sft_app.data.batches.train_eval_split import rank

    return rank(key, 1)


def test_copies_average_to_the_weight():
    assert 1.2 < np.mean([copies(key, 3, 1.3) for key in KEYS]) < 1.4
