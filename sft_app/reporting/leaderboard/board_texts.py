"""The leaderboard's numbers as texts: a table a length, and which methods differ."""

import math

from sft_app.reporting.leaderboard.leaderboard_table import LengthBoard, Standing
from sft_app.reporting.leaderboard.published_claims import recovery_note, recovery_text
from sft_app.reporting.leaderboard.significance import Pair
from sft_app.reporting.page import format_values
from sft_app.reporting.page.format_values import NOT_MEASURED, Formatter
from sft_app.reporting.sweep.seed_groups import Spread
from sft_app.reporting.sweep.sweep_table import Column, Row, Table, Value

MOST_PAIRS = 8
LEAST_SHARE = 0.95
"""Of the largest budget's tokens: budgets of supervised tokens differ a little."""


def board_table(board: LengthBoard) -> Table:
    """Build the table of one length: a row a method, the lowest tuned loss first.

    What was measured of no method has no column.
    """
    length, window = board.context_length, board.window
    at_length = f"at {length:,} tokens"
    inside = "in the old window" if window is None else f"at {window:,}, the old window"
    columns = [
        Column(title="seeds"),
        Column(title="perplexity", group=at_length),
        Column(title="task score", group=at_length),
        Column(title="unlike the best", group=at_length, is_number=False),
        Column(title="recovery tokens"),
        Column(title="effective length"),
        Column(title="loss", group=inside),
        Column(title="task score", group=inside),
        Column(title=f"score at {2 * length:,}"),
        Column(title="tuning"),
        Column(title="memory"),
    ]
    most = max((standing.tokens for standing in board.standings), default=0)
    rows = [_values(standing, most) for standing in board.standings]
    measured = [
        index
        for index in range(len(columns))
        if any(row[index].text != NOT_MEASURED for row in rows)
    ]
    return Table(
        columns=[columns[index] for index in measured],
        rows=[
            Row(
                name=standing.method,
                link="",
                values=[row[index] for index in measured],
                is_best=number == 0,
            )
            for number, (standing, row) in enumerate(zip(board.standings, rows, strict=True))
        ],
    )


def pair_sentences(board: LengthBoard) -> list[str]:
    """Say which methods differ by more than the spread over seeds explains, and which do not."""
    sentences = [
        _pairs_sentence(f"Perplexity at {board.context_length:,} tokens", board.loss_pairs),
        _pairs_sentence(f"Task score at {board.context_length:,} tokens", board.score_pairs),
    ]
    return sentences if board.score_pairs else sentences[:1]


def _pairs_sentence(what: str, pairs: list[Pair]) -> str:
    tested = [pair for pair in pairs if not math.isnan(pair.p)]
    if not pairs:
        return f"{what}: measured of fewer than two methods."
    if not tested:
        return f"{what}: one seed a method, so that nothing can be tested."
    differing = sorted((pair for pair in tested if pair.differs), key=lambda pair: pair.p)
    if not differing:
        return (
            f"{what}: none of the {len(tested)} pairs of methods differs by more than the spread "
            "over seeds explains."
        )
    shown = ", ".join(_pair(pair) for pair in differing[:MOST_PAIRS])
    more = len(differing) - MOST_PAIRS
    return (
        f"{what}: {len(differing)} of {len(tested)} pairs differ by more than the spread over "
        f"seeds explains: {shown}{f', and {more} more' if more > 0 else ''}."
    )


def _pair(pair: Pair) -> str:
    low, high = (pair.first, pair.second) if pair.difference < 0 else (pair.second, pair.first)
    return f"{low} below {high} (p {pair.p:.2g})"


def _values(standing: Standing, most: int) -> list[Value]:
    """`most`: tokens of the largest budget that any method has come to at this length."""
    unlike = {None: NOT_MEASURED, True: "yes", False: "no"}[standing.differs_from_best]
    is_behind = 0 < standing.tokens < LEAST_SHARE * most
    return [
        Value(
            text=str(standing.seeds)
            if standing.seeds == standing.seeds_in_all
            else f"{standing.seeds} of {standing.seeds_in_all}",
            sort=str(standing.seeds),
            note=f"{standing.tokens:,} tokens only" if is_behind else "",
        ),
        _value(_exp(standing.loss_tuned), format_values.perplexity, _exp(standing.loss_untuned)),
        _value(standing.score_tuned, format_values.share, standing.score_untuned),
        Value(text=unlike, is_number=False),
        Value(
            text=recovery_text(standing.recovery),
            note=recovery_note(standing.recovery),
            sort=str(standing.recovery.tokens.mean if standing.recovery.tokens else math.inf),
        ),
        _value(standing.effective_length, format_values.count),
        _value(standing.window_loss_tuned, format_values.loss, standing.window_loss_untuned),
        _value(standing.window_score_tuned, format_values.share, standing.window_score_untuned),
        _value(standing.score_beyond, format_values.share),
        _spread_below(standing.seconds, format_values.duration),
        _spread_below(standing.memory, format_values.byte_size),
    ]


def _value(after: Spread | None, as_text: Formatter, before: Spread | None = None) -> Value:
    return Value(
        text=spread_text(after, as_text),
        before=as_text(before.mean) if before else "",
        sort=str(after.mean) if after else "",
    )


def _spread_below(value: Spread | None, as_text: Formatter) -> Value:
    """Return the mean, and below it the deviation, where a column has no value before training."""
    mean = _value(value and Spread(mean=value.mean, deviation=None, count=value.count), as_text)
    if value is not None and value.deviation:
        mean.note = f"± {as_text(value.deviation)}"
    return mean


def spread_text(value: Spread | None, as_text: Formatter) -> str:
    """Return mean ± deviation over seeds; a dash where nothing was measured."""
    if value is None:
        return NOT_MEASURED
    deviation = f" ± {as_text(value.deviation)}" if value.deviation else ""
    return as_text(value.mean) + deviation


def _exp(loss: Spread | None) -> Spread | None:
    """Turn a mean loss into the perplexity of it; its deviation by the derivative there."""
    if loss is None:
        return None
    perplexity = math.exp(loss.mean) if loss.mean < 700 else math.inf
    deviation = None if loss.deviation is None else perplexity * loss.deviation
    return Spread(mean=perplexity, deviation=deviation, count=loss.count)
