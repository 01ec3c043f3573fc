"""Files of a run that people and crashes have touched: read, or refused with a ValueError."""

import json
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sft_app.records.failure import first_failure
from sft_app.records.identity import Identity, compare, read_identity
from sft_app.records.manifest import damage_of, write_manifest
from sft_app.records.result import RunResult, Status, read_result
from sft_app.records.step_log import StepLine, last_line

RESULT = RunResult(
    status=Status.running, started_at="2026-01-01T00:00:00+00:00", config_hash="abc",
    context_length=128, model="m", seed=1,
)  # fmt: skip
IDENTITY = Identity(
    settings={"seed": 1, "data.train": ["a"]}, measured={}, rows_per_step=8, world_size=1,
    digests={"model": "0" * 64}, versions={"torch": "2"},
)  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[float, str]]:
    """Places in a text, 0 to 1, and what is put there."""
    telling = st.sampled_from(["", "{", "}", "null", "-1", "NaN", '"', "[", "\x00"])
    pieces = st.one_of(telling, st.text(max_size=3))
    return draw(st.lists(st.tuples(st.floats(0, 1), pieces), min_size=1, max_size=4))


def mutated(text: str, changes: list[tuple[float, str]]) -> bytes:
    for place, piece in changes:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + max(1, len(piece)) :]
    return text.encode("utf-8", errors="surrogatepass")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=mutations())
@example(changes=[(0.015625, "")])  # a status that is none
def test_no_mutation_of_a_record_raises_anything_else(
    tmp_path: Path, changes: list[tuple[float, str]]
) -> None:
    RESULT.write(tmp_path)
    result = tmp_path / "result.json"
    result.write_bytes(mutated(result.read_text(), changes))
    try:
        read_result(tmp_path)
    except ValueError as error:
        assert "result.json" in str(error)

    IDENTITY.write(tmp_path)
    identity = tmp_path / "identity.json"
    identity.write_bytes(mutated(identity.read_text(), changes))
    read = read_identity(tmp_path)
    if read is not None:
        compare(read, IDENTITY)

    line = StepLine(step=3, loss=1.5, total_tokens=128, padding_tokens=8).as_json()
    (tmp_path / "metrics.jsonl").write_bytes(mutated(f"{line}\n{line}\n", changes))
    last_line(tmp_path)

    failure = {"status": "failed", "time": 1.0, "error": {"type": "E", "message": "m", "rank": 0}}
    (tmp_path / ".failures").mkdir(exist_ok=True)
    (tmp_path / ".failures/rank-0.json").write_bytes(mutated(json.dumps(failure), changes))
    first_failure(tmp_path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=mutations(), in_manifest=st.booleans())
def test_every_mutation_of_a_checkpoint_is_seen(
    tmp_path: Path, changes: list[tuple[float, str]], in_manifest: bool
) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text("0123456789" * 5)
    write_manifest(folder, step=1)
    assert damage_of(folder) is None
    path = folder / ("manifest.json" if in_manifest else "weights")
    before = path.read_bytes()
    path.write_bytes(mutated(before.decode(), changes))
    found = damage_of(folder)  # of the manifest, what changes no meaning is no damage
    assert found is not None or in_manifest or path.read_bytes() == before
