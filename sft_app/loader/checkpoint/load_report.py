"""What transformers says of loading, as an error: names that are missing, unknown or misshapen."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_app.common.errors import ConfigError

PEFT_CONFIG = "adapter_config.json"
"""A file by which transformers knows an adapter, and loads it with what stands beside it."""

_SHOWN = 3
"""Names in a message; the rest is counted."""

_WRAPPERS = re.compile(
    r"^base_model\.model\.|(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|"
    r"_checkpoint_wrapped_module|_forward_module|base_layer)\."
)
"""What wrappers in training put into names: PEFT, DDP, torch.compile, FSDP, checkpointing."""


def check_loaded(info: dict[str, Any], name: str, stored: Iterable[str] = ()) -> None:
    """Raise ConfigError for anything in transformers' loading report.

    `info` is what `output_loading_info` gives: missing, unexpected and mismatched keys. `stored`:
    the names in the checkpoint's files, if they are known.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(tuple(entry) for entry in info["mismatched_keys"])
    errors = [" ".join(str(e).split()) for e in info.get("error_msgs") or ()]
    if mismatched:
        raise ConfigError(_shapes(mismatched, set(stored), name))
    if missing or unexpected or errors:
        raise ConfigError(_sentence(missing, unexpected, errors, name))


def check_no_adapter_beside(found: Path | None, where: str) -> None:
    """Raise ConfigError where whole weights have an adapter beside them.

    Its matrices would come between the model's own, on top of weights that it may be merged into
    already, and only where peft is installed. `found`: the adapter's configuration, if there is
    one; `where`: how the message begins, with what holds both.
    """
    if found is not None and found.is_file():
        raise ConfigError(
            f"{where} holds a whole model and an adapter ({PEFT_CONFIG}), which transformers would "
            "put on it, merged already or not; take the adapter's files away if its weights are in "
            "the model, else merge them into it first."
        )


def first_hole(names: Iterable[str]) -> str | None:
    """Return the first weight that is missing in a numbered series, such as a layer's experts."""
    series: dict[tuple[str, str], set[int]] = {}
    for name in names:
        found = re.match(r"(.*\.)(\d+)((?:\.[^.]*[^.\d][^.]*)*)$", name)
        if found:
            series.setdefault((found.group(1), found.group(3)), set()).add(int(found.group(2)))
    longest: dict[str, int] = {}
    for (before, _), numbers in series.items():
        longest[before] = max(longest.get(before, 0), max(numbers))
    for (before, after), numbers in sorted(series.items()):
        for number in range(longest[before] + 1):
            if number not in numbers:
                return f"{before}{number}{after}"
    return None


def _shapes(mismatched: list[tuple[Any, ...]], stored: set[str], name: str) -> str:
    key, found, built = mismatched[0]
    joined = bool(stored) and key not in stored
    hole = first_hole(stored) if joined else None
    if hole is not None:
        return (
            f"model.name_or_path: {name!r} lacks {hole}, a part of {key}; it would be random "
            "numbers: copy the whole checkpoint again."
        )
    what = (
        f"{key!r}, put together from the files of {name!r}," if joined else f"{key!r} of {name!r}"
    )
    more = f" ({len(mismatched):,} tensors differ so)" if len(mismatched) > 1 else ""
    return (
        f"model.name_or_path: {what} has the shape {tuple(found)}, and its config.json means "
        f"{tuple(built)}{more}; give the config.json that belongs to these weights."
    )


def _sentence(missing: list[str], unexpected: list[str], errors: list[str], name: str) -> str:
    renamed = _renamed(missing, unexpected)
    if renamed:
        return (
            f"model.name_or_path: in {name!r} {renamed} ({len(unexpected):,} tensors, such as "
            f"{unexpected[0]}); save the model itself, or rename the tensors."
        )
    if missing and not unexpected:
        cause = "they would be random numbers: copy the whole checkpoint again"
    elif unexpected and not missing:
        cause = (
            "they would be lost: the config.json is another model's (fewer layers, tied "
            "embeddings?), or these are an adapter's, to be merged first"
        )
    else:
        cause = "config.json and weights belong to different models"
    found = []
    if missing:
        found.append(f"lacks {_listed(missing)}")
    if unexpected:
        found.append(f"has {_listed(unexpected)}, which the architecture does not know")
    if errors:
        found.append(errors[0][:200])
    return f"model.name_or_path: {name!r} {' and '.join(found)}; {cause}."


def _renamed(missing: list[str], unexpected: list[str]) -> str | None:
    """Say how the unexpected names differ from missing ones, where one rule explains most."""
    wanted = set(missing)
    bare = [_unwrapped(name) for name in unexpected]
    if _most(name in wanted and name != old for name, old in zip(bare, unexpected, strict=True)):
        parts = dict.fromkeys(part for name in unexpected for part in _WRAPPERS.findall(name))
        start = unexpected[0].removesuffix(bare[0])
        everywhere = all(name.startswith(start) for name in unexpected)
        where = (
            f"all names begin with {start!r}"
            if start and everywhere
            else (f"names have {' and '.join(map(repr, parts))} in them")
        )
        return f"{where}, which a wrapper in training (DDP, FSDP, torch.compile, PEFT) put there"
    theirs, ours = _heads(unexpected, wanted)
    if theirs is None or len(unexpected) < 2:
        return None
    if not ours:
        return f"all names begin with {theirs!r}, which the architecture does not know"
    return f"names begin with {theirs!r} where the architecture has {ours!r}"


def _unwrapped(name: str) -> str:
    """Take wrappers' parts away until none is left: one may have been around another."""
    while (bare := _WRAPPERS.sub("", name)) != name:
        name = bare
    return name


def _most(found: Iterable[bool]) -> bool:
    answers = list(found)
    return sum(answers) * 2 > len(answers)


def _heads(unexpected: list[str], wanted: set[str]) -> tuple[str | None, str]:
    """Return the beginning of the unexpected names, and what to put there to have missing ones."""
    for parts in range(1, 5):
        theirs = ".".join(unexpected[0].split(".")[:parts]) + "." if unexpected else ""
        if not theirs or not all(name.startswith(theirs) for name in unexpected):
            break
        tails = [name.removeprefix(theirs) for name in unexpected]
        heads = {name[: -len(tails[0])] for name in wanted if name.endswith(tails[0])}
        for ours in sorted(heads, key=len):
            whole = ours == "" or ours.endswith(".")
            if whole and _most(f"{ours}{tail}" in wanted for tail in tails):
                return theirs, ours
    return None, ""


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
