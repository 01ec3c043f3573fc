"""Packing: every document once, no row too full, little padding."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_app.data.batches.pack import best_fit_decreasing


@given(st.lists(st.integers(1, 64), max_size=200), st.integers(64, 128))
def test_every_document_once_and_no_row_too_full(lengths, capacity):
    rows = best_fit_decreasing(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows)


@given(st.lists(st.integers(1, 64), max_size=200), st.integers(64, 128))
def test_two_rows_that_would_fit_into_one_are_one(lengths, capacity):
    rows = best_fit_decreasing(lengths, capacity)
    spaces = [capacity - sum(lengths[i] for i in row) for row in rows]
    assert sum(space >= capacity / 2 for space in spaces) <= 1


def test_the_best_fit_is_taken_not_the_first():
    # 7 leaves 3, 6 leaves 4: the document of 3 belongs to the 7.
    assert best_fit_decreasing([6, 7, 3], 10) == [[1, 2], [0]]


def test_the_same_lengths_give_the_same_rows():
    lengths = random.Random(1).choices(range(1, 99), k=500)
    assert best_fit_decreasing(lengths, 100) == best_fit_decreasing(list(lengths), 100)


def test_a_document_that_is_too_long():
    with pytest.raises(ValueError, match="101 tokens does not fit into 100"):
        best_fit_decreasing([101], 100)
