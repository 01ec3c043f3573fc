"""How a command ends when its input cannot work: one sentence on stderr, and exit code 2.

With HYDRA_FULL_ERROR=1 the traceback comes first; the exit code is the same.
"""

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sft_app.common.errors import ConfigError, DataError, printable
from sft_app.common.secrets import hide_secrets

EXIT_BAD_INPUT = 2
LONGEST = 700
"""Characters of a sentence that was not written here: libraries quote whole configurations."""

_COMPOSERS = ("hydra", "omegaconf", "yaml")
"""Packages whose messages are about the configuration, not about a mistake in this program."""

_VALUE_IN_A_FILE = re.compile(
    r"(In '[^']*': )?ValidationError raised while composing config: (?:Value|Invalid value) "
    r"'(.*)'(?: of type '.*' could not be converted|, expected).* full_key: (\S+)"
)
"""What Hydra says of a value in a YAML file that is none of its key's."""

_IN_A_FILE = re.compile(r"(?:In '(?P<file>[^']*)': )?\w+ raised while composing config: ")
"""What Hydra says first of a file that it cannot put into the configuration."""

_UNKNOWN_KEY = re.compile(
    r"Key '.*' not in '\w+'(?:\. Did you mean: .*\?)? full_key: (?P<key>.*?) "
    r"(?:reference|object)_type=.*"
)
_NO_MAPPING = re.compile(
    r"Merge error: \w+ is not a subclass of \w+\. value: .*|"
    r"Cannot merge (?:DictConfig with ListConfig|incompatible container types) .*"
)
_TYPES = re.compile(r" full_key: (?P<key>.*?)((?:reference|object)_type=.*)")
"""How OmegaConf ends its messages: the key, empty for the whole, and names of our classes."""

PROGRAMS = {
    "train": "sft-train",
    "plan": "sft-plan",
    "report": "sft-report",
    "evaluate": "sft-eval",
}
"""How a module that is run with `python -m` is called as a command."""

Method = TypeVar("Method", bound=Callable[..., Any])


def program_name() -> str:
    """Return the command's name, however it was started."""
    stem = Path(sys.argv[0]).stem
    return PROGRAMS.get(stem, stem)


def exit_with_message(error: BaseException) -> NoReturn:
    """Print `error` as one sentence, its traceback first if HYDRA_FULL_ERROR asks; exit with 2."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        print(hide_secrets("".join(traceback.format_exception(error))), file=sys.stderr)
    print(f"{program_name()}: {hide_secrets(as_sentence(error))}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


def fails_closed(method: Method) -> Method:
    """Let whatever a Hydra callback raises end the program.

    Hydra makes a warning of an exception in a callback, and starts the job: unchecked.
    """

    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            exit_with_message(error)

    return guarded  # type: ignore[return-value]


def as_sentence(error: BaseException) -> str:
    """Return what is wrong in one line; for errors of libraries, the part that a user can use."""
    if isinstance(error, ConfigError | DataError):
        return str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:  # YAML's own, with the place
        problem = getattr(error, "problem", None) or error
        return f"{mark.name}, line {mark.line + 1}: this is no YAML: {_one_line(problem)}."
    if isinstance(error, OSError) and error.strerror:
        return f"{_shortened(str(error.filename))}: {error.strerror}."
    cause = f" {_one_line(error.__cause__)}" if error.__cause__ is not None else ""
    text = _one_line(error) + (cause if cause.strip() not in _one_line(error) else "")
    in_a_file = _VALUE_IN_A_FILE.search(text)
    if in_a_file is not None:
        from sft_app.config.overrides.value_types import what_fits_in_a_file

        file, value, key = in_a_file.groups()
        return f"{file or ''}{key}: {value} is not possible.{what_fits_in_a_file(key, value)}"
    if (begin := _IN_A_FILE.match(text)) is not None:
        text = _told_of_a_file(begin["file"], text[begin.end() :])
    of_composing = {type(error).__module__.partition(".")[0], _raised_in(error)} & set(_COMPOSERS)
    return _shortened(_without_types(text) if of_composing else f"{type(error).__name__}: {text}")


def _raised_in(error: BaseException) -> str:
    """The package that raised it: what Hydra says of a defaults list is a plain ValueError."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__) if error.__traceback__ else [(None, 0)]
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] if frame else ""


def _told_of_a_file(file: str | None, text: str) -> str:
    """What is wrong with a YAML file's keys, as far as a user can use it."""
    where = f"{file}.yaml: " if file else ""
    unknown = _UNKNOWN_KEY.fullmatch(text)
    if unknown is not None:
        from sft_app.config.overrides.key_names import what_is_meant

        return f"{where}'{unknown['key']}' is not a setting{what_is_meant(unknown['key'])}"
    if _NO_MAPPING.fullmatch(text):
        return (
            f"{where}a single value or a list stands where a group has its keys: write key: value."
        )
    return where + _without_types(text)


def _without_types(text: str) -> str:
    return _TYPES.sub(lambda found: f" ({found['key'].strip()})", text).replace(" ()", "").strip()


def _one_line(error: object) -> str:
    return printable(" ".join(str(error).split()))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
