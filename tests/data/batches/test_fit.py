"""Cutting examples to the context: nothing lost uncounted, nothing doubled, no orphan answers."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_app.config.schema.data import Overlong
from sft_app.data.batches.fit import Chunk, fit
from sft_app.data.chat.spans import Break
from sft_app.data.chat.tokenize import TokenSpan


class Example:
    """Tokens as a template lays them out: system, then header, question, header, answer."""

    def __init__(self, system, exchanges, header=2):
        self.spans, self.breaks, self.headers = [], [], []
        at = system
        for number, (question, answer) in enumerate(exchanges):
            stop = at
            at += header
            if number == 0:
                self.opening = at
            else:
                self.breaks.append(Break(stop, at))
            at += question + header
            self.headers.append(at)
            self.spans.append(TokenSpan(at, at + answer))
            at += answer
        self.length = at

    def fit(self, context_length, overlong):
        return fit(
            self.length,
            self.spans,
            self.breaks,
            self.opening,
            False,
            context_length=context_length,
            overlong=overlong,
        )


THREE = Example(system=5, exchanges=[(10, 10), (10, 10), (10, 10)])


def test_what_fits_is_one_piece_under_every_policy():
    for overlong in Overlong:
        fitted = THREE.fit(THREE.length, overlong)
        assert fitted.chunks == [Chunk(0, THREE.length)] and not fitted.lost


def test_drop_counts_every_token():
    assert THREE.fit(THREE.length - 1, Overlong.drop).lost == {"dropped": THREE.length}


def test_truncate_keeps_the_beginning_up_to_the_last_label_in_it():
    first, second = THREE.spans[:2]
    cut_in_answer = THREE.fit(second.start + 3, Overlong.truncate)
    assert cut_in_answer.chunks == [Chunk(0, second.start + 3)]
    cut_in_question = THREE.fit(second.start - 3, Overlong.truncate)
    assert cut_in_question.chunks == [Chunk(0, first.stop)]
    assert cut_in_question.lost == {"truncated": THREE.length - first.stop}


def test_truncate_drops_what_has_no_label_left():
    assert THREE.fit(THREE.spans[0].start, Overlong.truncate).lost == {"no_labels": THREE.length}


def test_split_restarts_at_questions_with_a_copy_of_the_opening():
    exchange = THREE.breaks[1].stop - THREE.breaks[0].restart
    fitted = THREE.fit(THREE.opening + exchange, Overlong.split)
    assert [p.opening for p in fitted.chunks] == [0, THREE.opening, THREE.opening]
    assert [p.start for p in fitted.chunks] == [0, *(b.restart for b in THREE.breaks)]
    assert not fitted.lost


def test_split_puts_as_many_exchanges_into_a_piece_as_fit():
    fitted = THREE.fit(THREE.breaks[1].stop, Overlong.split)
    assert [(p.start, p.stop) for p in fitted.chunks] == [
        (0, THREE.breaks[1].stop),
        (THREE.breaks[1].restart, THREE.length),
    ]


def test_split_truncates_an_answer_that_fits_nowhere():
    example = Example(system=5, exchanges=[(10, 10), (10, 100), (10, 10)])
    fitted = example.fit(50, Overlong.split)
    assert [chunk.length for chunk in fitted.chunks][1] == 50
    assert fitted.lost == {"truncated": example.breaks[1].stop - fitted.chunks[1].stop}


def test_passages_are_split_anywhere():
    fitted = fit(25, [TokenSpan(0, 25)], [], 0, True, context_length=10, overlong=Overlong.split)
    assert fitted.chunks == [Chunk(0, 10), Chunk(10, 20), Chunk(20, 25)]


def test_an_example_without_labels_is_never_trained_on():
    fitted = fit(9, [], [], 0, False, context_length=10, overlong=Overlong.split)
    assert not fitted.chunks and fitted.lost == {"no_labels": 9}


EXAMPLES = st.builds(
    Example,
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=8),
    st.integers(0, 3),
)


@given(EXAMPLES, st.integers(2, 120), st.sampled_from(list(Overlong)))
def test_no_token_is_lost_uncounted_or_doubled(example, context_length, overlong):
    fitted = example.fit(context_length, overlong)
    used = Counter(t for p in fitted.chunks for t in range(p.start, p.stop))
    assert all(count == 1 for count in used.values())
    # A question's header is neither used nor lost where a chunk restarts behind it.
    restarts = {b.restart: b.restart - b.stop for b in example.breaks}
    headers = sum(restarts.get(p.start, 0) for p in fitted.chunks)
    missing = example.length - len(used) - sum(fitted.lost.values())
    assert headers <= missing <= sum(restarts.values())


@given(EXAMPLES, st.integers(2, 120), st.sampled_from(list(Overlong)))
def test_pieces_fit_have_labels_and_never_an_answer_without_its_header(
    example, context_length, overlong
):
    for chunk in example.fit(context_length, overlong).chunks:
        assert 0 < chunk.length <= context_length
        inside = [s for s in example.spans if s.start < chunk.stop and s.stop > chunk.start]
        assert inside
        assert all(chunk.start <= span.start for span in inside)
        assert chunk.start in [0, *(b.restart for b in example.breaks)]
        assert chunk.opening == (example.opening if chunk.start else 0)


@given(EXAMPLES, st.integers(2, 120))
def test_only_the_last_answer_of_a_piece_may_be_cut_and_then_without_its_end(
    example, context_length
):
    for overlong in (Overlong.truncate, Overlong.split):
        for chunk in example.fit(context_length, overlong).chunks:
            cut = [s for s in example.spans if s.start < chunk.stop < s.stop]
            assert len(cut) <= 1
            if cut:
                assert chunk.length == context_length


@pytest.mark.parametrize("overlong", list(Overlong))
def test_the_same_for_passages(overlong):
    for length in range(1, 60):
        fitted = fit(
            length, [TokenSpan(0, length)], [], 0, True, context_length=7, overlong=overlong
        )
        used = sum(chunk.length for chunk in fitted.chunks)
        assert used + sum(fitted.lost.values()) == length
        assert all(chunk.length <= 7 for chunk in fitted.chunks)
