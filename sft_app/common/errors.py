"""The exceptions that end a command with one sentence for the user, and without a traceback."""

LONGEST = 2_000
"""Characters of a sentence; of a longer one, which quotes somebody's file, the middle is left out:
its beginning says where, its end what to do."""


class UserError(ValueError):
    """What a user can mend; its message is one printable line, whatever it quotes."""

    def __init__(self, message: str = "") -> None:
        """Write what is not printable (line ends, escape sequences) as Python would quote it."""
        if len(message) > LONGEST:
            message = f"{message[: LONGEST * 2 // 3]} [...] {message[-LONGEST // 4 :]}"
        super().__init__(printable(message))


class ConfigError(UserError):
    """A setting, or a combination of settings, that cannot work.

    The message is a sentence for the user: it names the key, the value, what is allowed, and the
    override that mends it. Entry points print it without a traceback and exit with 2.
    """


class DataError(UserError):
    """A record, or a file of records, that cannot be read.

    The message is one sentence for the user: it names the file and the record, line or byte, what
    was expected there, and the way out. Entry points print it without a traceback.
    """


def printable(text: str) -> str:
    """Return `text`, what would not be seen or would move a cursor written as Python quotes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
