"""Numbers as people read them, with their units. What was not measured is a dash."""

import math
from collections.abc import Callable

NOT_MEASURED = "—"

Formatter = Callable[[float | None], str]


def loss(value: float | None) -> str:
    """Return a loss with four decimals."""
    return _special(value) or f"{value:.4f}"


def perplexity(value: float | None) -> str:
    """Return a perplexity: two decimals below 100, whole numbers above."""
    special = _special(value)
    if special or value is None:
        return special
    if value < 100:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2e}"


def count(value: float | None) -> str:
    """Return a whole number with thousands separators."""
    return _special(value) or f"{value:,.0f}"


def rate(value: float | None) -> str:
    """Return a rate: whole numbers from 100 on, three digits below."""
    special = _special(value)
    if special or value is None:
        return special
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def short_rate(value: float | None) -> str:
    """Return a rate in at most four digits: 940, 2.74k, 151k."""
    special = _special(value)
    if special or value is None:
        return special
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.3g}{unit}"
    return f"{value:.3g}"


def share(value: float | None) -> str:
    """Return a share (0 to 1) in per cent."""
    special = _special(value)
    return special or f"{100 * (value or 0.0):.1f} %"


def change(before: float | None, after: float | None) -> str:
    """Return the relative change in per cent, signed; a dash when either end is not a number."""
    if before is None or after is None or not math.isfinite(before) or not math.isfinite(after):
        return NOT_MEASURED
    return f"{100 * (after / before - 1):+.1f} %" if before else NOT_MEASURED


def byte_size(value: float | None) -> str:
    """Return a number of bytes in the largest unit (KiB, MiB, ...) that it fills."""
    special = _special(value)
    if special or value is None:
        return special
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= size:
            return (
                f"{value / size:.3g} {unit}"
                if value < 1000 * size
                else f"{value / size:,.0f} {unit}"
            )
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """Return a number of seconds as people say it: 12.3 s, 4 min 05 s, 2 h 10 min."""
    special = _special(seconds)
    if special or seconds is None:
        return special
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def length(tokens: int) -> str:
    """Return a context length as it is spoken of: 512, 4k, 32k, 5,000."""
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else f"{tokens:,}"


def model_name(name_or_path: str) -> str:
    """Return `org/name` as it is; of a path or an address, the last part."""
    parts = [part for part in name_or_path.replace("\\", "/").split("/") if part]
    is_path = name_or_path.startswith(("/", ".", "~")) or "://" in name_or_path or len(parts) > 2
    return parts[-1] if is_path and parts else name_or_path


def _special(value: float | None) -> str:
    """The text for a value that is not an ordinary number, else an empty one."""
    if value is None:
        return NOT_MEASURED
    if math.isnan(value):
        return "NaN"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else ""
