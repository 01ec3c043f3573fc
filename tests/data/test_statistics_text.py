"""Counts that a reader can add up."""

import re

import numpy as np

from sft_app.data.statistics import (
    DataStatistics,
    FitStatistics,
    PackingStatistics,
    ReadStatistics,
    length_statistics,
)
from sft_app.data.statistics_text import fit_counts, loss_warning, read_counts


def numbers(text: str) -> list[int]:
    return [
        int(found.replace(",", "")) for found in re.findall(r"(?<![\d.])\d[\d,]*(?![\d.%])", text)
    ]


def test_tokens_lost_and_repeated_add_up_to_those_used() -> None:
    fit = FitStatistics(
        conversations=90, examples=90, tokens=4_133, used_tokens=4_301, supervised_tokens=900,
        overlong=27, split=25, truncated=20, split_and_truncated=18, lost_tokens={"truncated": 33},
    )  # fmt: skip
    tokens, cut = fit_counts(fit, 128)
    examples, whole, lost, repeated, used, supervised = numbers(tokens)
    assert (examples, whole, lost, used, supervised) == (90, 4_133, 33, 4_301, 900)
    assert whole - lost + repeated == used
    assert "- 33 lost" in tokens and "+ 201 repeated" in tokens
    overlong, context, split, both, shortened = numbers(cut)
    assert (overlong, context, split, both) == (27, 128, 25, 18)
    assert split + shortened == overlong


def test_what_is_left_out_for_its_length_and_for_want_of_labels_is_told_apart() -> None:
    fit = FitStatistics(
        conversations=10, examples=10, tokens=100, used_tokens=100, overlong=3, dropped=5
    )
    assert fit_counts(fit, 8)[1:] == [
        "3 longer than 8 tokens: 3 left out",
        "2 left out: nothing in them is supervised",
    ]


def test_many_lost_tokens_are_a_warning_with_the_length_that_keeps_them() -> None:
    """Of 1,000, 1,000 and 8,000 tokens 6,096 stand within 4,096, and all within 8,192."""

    def of(lost: dict[str, int]) -> str | None:
        read, packing = ReadStatistics(), PackingStatistics(packed=False)
        return loss_warning(
            DataStatistics(
                context_length=1024, train_read=read, eval_read=None, eval=None, packing=packing,
                lengths=length_statistics(np.array([1000, 1000, 8000])),
                train=FitStatistics(examples=3, tokens=10_000, lost_tokens=lost),
            )
        )  # fmt: skip

    assert of({"truncated": 1_000}) is None
    assert of({"no_labels": 5_000}) is None, "no length would keep them"
    assert of({"truncated": 6_976}) == (
        "70% of the tokens are lost to context_length=1024 (6,976 of 10,000): "
        "context_length=8192 would keep 100%."
    )


def test_where_nothing_was_lost_nothing_is_said() -> None:
    fit = FitStatistics(
        conversations=2, examples=2, tokens=50, used_tokens=50, supervised_tokens=10
    )
    assert fit_counts(fit, 128) == ["2 conversations, 50 tokens; 10 supervised (20.0%)"]


def test_skipped_and_repaired_records_stand_apart_with_the_way_to_look_at_them() -> None:
    read = ReadStatistics(
        records=10, conversations=7, skipped={"empty": 2, "other": 1}, repaired={"merged": 4},
        formats={"sharegpt": 10}, examples_of_skipped=["a.jsonl line 3: blank", "a.jsonl line 8"],
    )  # fmt: skip
    assert read_counts(read) == [
        "10 records, 7 used (sharegpt format)",
        "3 skipped: empty 2, other 1 (data.on_bad_record=error stops at the first)",
        "the first: a.jsonl line 3: blank",
        "repaired: merged 4 (sft-plan data.preview=3 shows examples)",
    ]


def test_one_is_one() -> None:
    fit = FitStatistics(
        conversations=1, examples=1, tokens=50, used_tokens=50, supervised_tokens=10,
        shortened_questions=1, continued_answers=1, lost_labels=1,
    )  # fmt: skip
    assert fit_counts(fit, 128) == [
        "1 conversation, 50 tokens; 10 supervised (20.0%)",
        "1 question lost its middle to its answer",
        "1 document goes on with an answer longer than a row",
        "1 label lost with them",
    ]
    assert read_counts(ReadStatistics(records=1, conversations=1))[0].startswith("1 record, 1 used")
