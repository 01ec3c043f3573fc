"""Numbers with the thing that is counted, in the right number: `1 row`, `1,024 rows`."""


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return `number` and `thing`, or of any number but one `things` (None: `thing` with an s)."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
