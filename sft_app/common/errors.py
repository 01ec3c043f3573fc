"""The one exception for what a user asked for and cannot have."""


class ConfigError(ValueError):
    """A setting, or a combination of settings, that cannot work.

    The message is a sentence for the user: it names the key, the value, what is allowed, and the
    override that mends it. Entry points print it without a traceback and exit with 2.
    """
