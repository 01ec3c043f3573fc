"""Cutting examples to the context: no label lost or doubled, and every lost token counted."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_app.config.schema.data import Overlong, OverlongQuestion
from sft_app.data.batches.fit import Shape, fit
from sft_app.data.batches.segments import Chunk, Segment
from sft_app.data.chat.spans import Exchange
from sft_app.data.chat.tokenize import TokenSpan


class Example:
    """Tokens as a template lays them out: system, then header, question, header, answers.

    An exchange is (question, answer) or (question, answer, result, answer, ...), where a result of
    a tool stands between two answers.
    """

    def __init__(self, system: int, exchanges: list[tuple[int, ...]], header: int = 2) -> None:
        self.spans: list[TokenSpan] = []
        self.exchanges: list[Exchange] = []
        at = system
        for question, *rest in exchanges:
            start = at + header
            question_stop = start + question
            at = question_stop
            for number, size in enumerate(rest):
                if number % 2:
                    at += size
                else:
                    at += header
                    self.spans.append(TokenSpan(at, at + size))
                    at += size
            self.exchanges.append(Exchange(start, question_stop, at))
        self.length = at
        self.prefix = self.exchanges[0].start
        self.labels = {t for span in self.spans for t in range(span.start, span.stop)} - {0}

    def labels_of(self, number: int) -> list[int]:
        return list(range(self.spans[number].start, self.spans[number].stop))

    def fit(self, context_length, overlong=Overlong.split, question=OverlongQuestion.keep_ends):
        shape = Shape(self.length, self.spans, self.exchanges)
        return fit(shape, context_length=context_length, overlong=overlong, question=question)


def tokens(chunk: Chunk) -> list[int]:
    return [t for segment in chunk.segments for t in range(segment.start, segment.stop)]


def labels(example: Example, chunk: Chunk) -> list[int]:
    """Token by token, what the chunk teaches; independent of `num_supervised`."""
    taught, at = [], 0
    for segment in chunk.segments:
        for token in range(segment.start, segment.stop):
            if segment.supervised and at and token in example.labels:
                taught.append(token)
            at += 1
    return taught


THREE = Example(system=5, exchanges=[(10, 10), (10, 10), (10, 10)])


def test_what_fits_is_one_chunk_under_every_policy():
    for overlong in Overlong:
        fitted = THREE.fit(THREE.length, overlong)
        assert [tokens(c) for c in fitted.chunks] == [list(range(THREE.length))]
        assert not fitted.lost


def test_drop_counts_every_token():
    assert THREE.fit(THREE.length - 1, Overlong.drop).lost == {"dropped": THREE.length}


def test_truncate_keeps_the_beginning_up_to_the_last_label_in_it():
    first, second = THREE.spans[:2]
    cut_in_answer = THREE.fit(second.start + 3, Overlong.truncate)
    assert [tokens(c) for c in cut_in_answer.chunks] == [list(range(second.start + 3))]
    cut_in_question = THREE.fit(second.start - 3, Overlong.truncate)
    assert [tokens(c) for c in cut_in_question.chunks] == [list(range(first.stop))]
    assert cut_in_question.lost == {"truncated": THREE.length - first.stop}


def test_truncate_drops_what_has_no_label_left():
    assert THREE.fit(THREE.spans[0].start, Overlong.truncate).lost == {"no_labels": THREE.length}


def test_split_begins_at_questions_with_a_copy_of_the_prefix():
    second = THREE.exchanges[1]
    fitted = THREE.fit(THREE.prefix + second.stop - second.start)
    prefix = list(range(THREE.prefix))
    assert [tokens(c) for c in fitted.chunks] == [
        prefix + list(range(e.start, e.stop)) for e in THREE.exchanges
    ]
    assert not fitted.lost


def test_split_puts_as_many_exchanges_into_a_chunk_as_fit():
    first, second, third = THREE.exchanges
    fitted = THREE.fit(second.stop)
    assert [tokens(c)[THREE.prefix :] for c in fitted.chunks] == [
        list(range(first.start, second.stop)),
        list(range(third.start, third.stop)),
    ]


def test_an_answer_longer_than_a_row_goes_on_behind_its_question():
    example = Example(system=5, exchanges=[(10, 10), (10, 200), (10, 10)])
    fitted = example.fit(64)
    before = [*range(example.prefix), *range(example.exchanges[1].start, example.spans[1].start)]
    rows = [c for c in fitted.chunks if set(labels(example, c)) & set(example.labels_of(1))]
    assert len(rows) > 3 and fitted.continued == len(rows) - 1
    for row in rows:
        assert tokens(row)[: len(before)] == before
        # What follows is one stretch of the answer, its labels at the end of it.
        rest = tokens(row)[len(before) :]
        assert rest == list(range(rest[0], rest[0] + len(rest)))
        assert labels(example, row) == rest[len(rest) - len(labels(example, row)) :]
    assert not fitted.lost and not fitted.shortened


def test_a_question_longer_than_a_row_loses_its_middle_and_keeps_its_ends():
    example = Example(system=5, exchanges=[(300, 20)])
    (row,) = example.fit(64).chunks
    seen = tokens(row)
    (exchange,), (span,) = example.exchanges, example.spans
    assert len(seen) == 64 and seen[: example.prefix] == list(range(example.prefix))
    question = [t for t in seen if exchange.start <= t < exchange.question_stop]
    assert question[0] == exchange.start and question[-1] == exchange.question_stop - 1
    assert seen[-22:] == list(range(exchange.question_stop, span.stop))
    assert example.fit(64).lost == {"shortened": example.length - len(seen)}
    assert example.fit(64).shortened == 1


def test_the_middle_of_a_question_is_not_cut_where_that_is_not_wanted():
    example = Example(system=5, exchanges=[(10, 10), (300, 20), (10, 10)])
    fitted = example.fit(64, question=OverlongQuestion.drop)
    taught = sorted(t for c in fitted.chunks for t in labels(example, c))
    assert taught == sorted(example.labels - set(example.labels_of(1)))
    assert fitted.lost.keys() == {"long_question"} and not fitted.shortened


def test_a_system_prompt_that_fills_a_row_is_shortened_like_a_question():
    example = Example(system=100, exchanges=[(10, 20), (10, 20)])
    fitted = example.fit(64)
    taught = sorted(t for c in fitted.chunks for t in labels(example, c))
    assert taught == sorted(example.labels) and fitted.shortened == 2
    assert all(tokens(c)[0] == 0 for c in fitted.chunks)


def test_passages_are_split_anywhere_and_lose_no_label():
    shape = Shape(25, [TokenSpan(0, 25)], [], is_passage=True)
    fitted = fit(
        shape,
        context_length=10,
        overlong=Overlong.split,
        question=OverlongQuestion.keep_ends,
    )
    assert [tokens(c) for c in fitted.chunks] == [
        list(range(10)),
        list(range(9, 19)),
        list(range(18, 25)),
    ]
    assert sum(c.num_supervised(shape.spans) for c in fitted.chunks) == 24


def test_an_example_without_labels_is_never_trained_on():
    shape = Shape(9, [], [])
    for context_length in (10, 5):
        fitted = fit(
            shape,
            context_length=context_length,
            overlong=Overlong.split,
            question=OverlongQuestion.keep_ends,
        )
        assert not fitted.chunks and fitted.lost == {"no_labels": 9}


SIZES = st.integers(1, 60)
EXAMPLES = st.builds(
    Example,
    st.integers(0, 40),
    st.lists(
        st.tuples(SIZES, SIZES) | st.tuples(SIZES, SIZES, SIZES, SIZES), min_size=1, max_size=6
    ),
    st.integers(1, 3),
)
POLICIES = st.sampled_from([(o, q) for o in Overlong for q in OverlongQuestion])


@given(EXAMPLES, st.integers(2, 150))
def test_split_teaches_every_label_once(example, context_length):
    fitted = example.fit(context_length)
    taught = Counter(t for chunk in fitted.chunks for t in labels(example, chunk))
    assert taught == Counter(dict.fromkeys(example.labels, 1))


@given(EXAMPLES, st.integers(2, 150))
def test_split_teaches_every_label_once_where_it_is_not_known_how_to_split(example, context_length):
    example.exchanges = []
    fitted = example.fit(context_length)
    taught = Counter(t for chunk in fitted.chunks for t in labels(example, chunk))
    assert taught == Counter(dict.fromkeys(example.labels, 1))


@given(EXAMPLES, st.integers(2, 150), POLICIES)
def test_chunks_fit_have_labels_and_count_them(example, context_length, policy):
    for chunk in example.fit(context_length, *policy).chunks:
        assert 0 < chunk.length <= context_length
        assert chunk.num_supervised(example.spans) == len(labels(example, chunk)) > 0


@given(EXAMPLES, st.integers(2, 150), POLICIES)
def test_no_token_is_lost_uncounted(example, context_length, policy):
    fitted = example.fit(context_length, *policy)
    used = {t for chunk in fitted.chunks for t in tokens(chunk)}
    missing = example.length - len(used) - sum(fitted.lost.values())
    # A later question's header is neither used nor lost where a chunk begins behind it.
    headers = sum(
        after.start - before.stop
        for before, after in zip(example.exchanges, example.exchanges[1:], strict=False)
    )
    assert 0 <= missing <= headers


@given(EXAMPLES, st.integers(32, 150))
def test_an_answer_stands_behind_its_header_or_behind_its_own_tokens(example, context_length):
    for chunk in example.fit(context_length).chunks:
        seen = tokens(chunk)
        for token in labels(example, chunk):
            assert seen[seen.index(token) - 1] == token - 1


@pytest.mark.parametrize("question", list(OverlongQuestion))
@pytest.mark.parametrize("overlong", list(Overlong))
def test_the_same_for_passages(overlong, question):
    for length in range(1, 60):
        shape = Shape(length, [TokenSpan(0, length)], [], is_passage=True)
        fitted = fit(shape, context_length=7, overlong=overlong, question=question)
        used = {t for chunk in fitted.chunks for t in tokens(chunk)}
        assert len(used) + sum(fitted.lost.values()) == length
        assert all(chunk.length <= 7 for chunk in fitted.chunks)


def test_segments_without_tokens_change_nothing():
    chunk = Chunk((Segment(0, 0, supervised=False), Segment(0, 5)))
    assert chunk.length == 5 and chunk.num_supervised([TokenSpan(0, 5)]) == 4
