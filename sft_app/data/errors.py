"""The exception for records that cannot be used."""


class DataError(ValueError):
    """A record, or a file of records, that cannot be read.

    The message is one sentence for the user: it names the file and the record, line or byte, what
    was expected there, and the way out. Entry points print it without a traceback.
    """
