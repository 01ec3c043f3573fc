"""The exceptions that end a command with one sentence for the user, and without a traceback."""


class ConfigError(ValueError):
    """A setting, or a combination of settings, that cannot work.

    The message is a sentence for the user: it names the key, the value, what is allowed, and the
    override that mends it. Entry points print it without a traceback and exit with 2.
    """


class DataError(ValueError):
    """A record, or a file of records, that cannot be read.

    The message is one sentence for the user: it names the file and the record, line or byte, what
    was expected there, and the way out. Entry points print it without a traceback.
    """
