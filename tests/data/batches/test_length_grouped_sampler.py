"""Length-grouped order for training without packing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sft_app.data.batches.length_grouped_sampler import LengthGroupedSampler

LENGTHS = random.Random(0).choices(range(1, 2000), k=1000)


@given(st.lists(st.integers(1, 99), max_size=60), st.integers(1, 7), st.integers(0, 3))
def test_every_example_once(lengths, batch_size, epoch):
    sampler = LengthGroupedSampler(lengths, batch_size, seed=1)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths))) and len(sampler) == len(lengths)


def batches(order):
    return [[LENGTHS[i] for i in order[at : at + 8]] for at in range(0, len(order), 8)]


def padding(order):
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches(order))


def test_batches_have_little_padding_and_the_longest_comes_first():
    order = list(LengthGroupedSampler(LENGTHS, 8, seed=1))
    assert padding(order) < 0.1 * padding(range(len(LENGTHS)))
    assert max(LENGTHS) in batches(order)[0]


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = LengthGroupedSampler(LENGTHS, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(1, 0)), tuple(order(1, 1)), tuple(order(2, 0))}) == 3
