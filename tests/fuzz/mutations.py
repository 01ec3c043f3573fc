"""Files as crashes, editors and strangers leave them: mutations of bytes, of texts and of JSON.

What reads them has two ways to end: with a result, or with one sentence for the user.
"""

import copy
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from sft_app.common.errors import LONGEST, ConfigError, DataError
from sft_app.common.resource_limits import memory_limit
from sft_app.config.one_sentence import as_sentence

EXAMPLES = "SFT_FUZZ_EXAMPLES"
"""Environment variable: examples of each test, instead of the few that `make test` takes."""

MOST_SECONDS = 30
"""Of computing, for one file of a few kilobytes."""
MOST_GROWTH = 4 << 30
Change = tuple[float, str]


def fuzzed(few: int) -> settings:
    """Decorate a test: `few` examples, always the same; as many as the environment says, new."""
    wanted = os.environ.get(EXAMPLES)
    return settings(
        max_examples=int(wanted or few),
        derandomize=wanted is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # Shrinking takes hundreds of examples more; what is found is a few changes as it is.
        phases=[Phase.explicit, Phase.generate],
    )


@contextmanager
def ends_well(*others: type[Exception]) -> Iterator[None]:
    """Let the block end by itself or with one sentence, in time and within memory.

    `others`: errors of a library that the caller makes a sentence of.
    """

    expected: list[type[Exception]] = [ConfigError, DataError, *others]

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it computes for more than {MOST_SECONDS} seconds")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        with memory_limit(MOST_GROWTH):
            yield
    except tuple(expected) as error:
        said = as_sentence(error)
        assert said.strip() and len(said) <= LONGEST, said
        assert said.isprintable(), ascii(said)
        assert not said.startswith(f"{type(error).__name__}:"), said
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


PIECES = st.one_of(
    st.sampled_from(
        ["", "{", "}", "[", "]", '"', ":", ",", "null", "true", "-1", "NaN", "1e999", "9" * 30,
         "\x00", "\n", "\\u0000", "\\ud800", "\ufeff", "&a", "*a", "!!python/name:os.system", "- ",
         "? ", "<<: ", "${x}", "${oc.env:HOME}", "{{", "{%", "%}", "\u2028", "é"]
    ),
    st.text(max_size=4),
)  # fmt: skip


@st.composite
def text_changes(draw: st.DrawFn) -> list[Change]:
    """Places in a text, 0 to 1, and what is put there instead of as many characters."""
    return draw(st.lists(st.tuples(st.floats(0, 1), PIECES), min_size=1, max_size=4))


def changed_text(text: str, changes: list[Change]) -> bytes:
    """Return a text with changes, as the bytes of a file."""
    for place, piece in changes:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + max(1, len(piece)) :]
    return text.encode("utf-8", errors="surrogatepass")


@st.composite
def byte_changes(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """What happens to bytes: cut off, taken out, put in, put in the place of others."""
    kinds = st.sampled_from(["cut", "take", "put", "replace", "replace", "double"])
    pieces = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([b"\x00" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80", b"\x00"]),
    )
    return draw(st.lists(st.tuples(kinds, st.floats(0, 1), pieces), min_size=1, max_size=3))


def changed_bytes(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """Return bytes with changes."""
    for kind, place, piece in changes:
        at = int(place * len(data))
        match kind:
            case "cut":
                data = data[:at]
            case "take":
                data = data[:at] + data[at + len(piece) :]
            case "put":
                data = data[:at] + piece + data[at:]
            case "double":
                data = data[:at] + data
            case _:
                data = data[:at] + piece + data[at + len(piece) :]
    return data


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 3, 1.5, -0.0, 1e308, float("nan"), float("inf"), 10**7,
         2**31, 2**63, 10**20, "", " ", "\x00", "\ud800", "x" * 5_000, "auto", "eager", "float16",
         "None", "../../etc/passwd", "/", ".", [], {}, [None], [[]], [{}], {"": None}, {"a": {}},
         [0], [-1], ["a"], [1, "a", None], _nested(60), {"content": "x"}, {"content": None},
         {"type": "yarn"}, {"rope_type": "linear"}, {"rope_type": "llama3", "factor": "8"}]
    ),
    st.integers(-(10**6), 10**9),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.lists(st.integers(-3, 3), max_size=3),
)  # fmt: skip
"""Values that stand where others are expected."""


@st.composite
def json_changes(draw: st.DrawFn) -> list[tuple[str, float, Any, str]]:
    """What happens to a JSON document: kind, which of its places, a value, a name."""
    kinds = st.sampled_from(["replace", "replace", "replace", "delete", "rename", "add", "wrap",
                             "swap"])  # fmt: skip
    names = st.one_of(
        st.text(max_size=3),
        st.sampled_from(["type", "model_type", "auto_map", "dtype", "torch_dtype", "rope_scaling",
                         "rope_parameters", "quantization_config", "sliding_window", "layer_types",
                         "text_config", "pad_token", "content", "role", "tool_calls", "weight"]),
    )  # fmt: skip
    return draw(
        st.lists(st.tuples(kinds, st.floats(0, 0.999), HOSTILE, names), min_size=1, max_size=3)
    )


def changed_json(document: Any, changes: list[tuple[str, float, Any, str]]) -> Any:
    """Return a document with changes; the one that was given stays as it is."""
    document = [copy.deepcopy(document)]
    for kind, place, value, name in changes:
        places = list(_places(document))
        holder, key = places[int(place * len(places))]
        is_root = holder is document
        match kind:
            case "delete" if not is_root:
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[name] = holder.pop(key)
            case "add" if isinstance(holder[key], dict):
                holder[key][name] = copy.deepcopy(value)
            case "add" if isinstance(holder[key], list):
                holder[key].append(copy.deepcopy(value))
            case "wrap":
                holder[key] = [holder[key]]
            case "swap":
                other, other_key = places[int(place * 7919) % len(places)]
                holder[key] = copy.deepcopy(other[other_key])
            case _:
                holder[key] = copy.deepcopy(value)
    return document[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a document, as its holder and the key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def as_file(document: Any) -> bytes:
    """Return a document as the bytes of a file, NaN and half surrogates as Python writes them."""
    return json.dumps(document, default=str).encode()
