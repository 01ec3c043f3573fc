"""What the libraries raise when they read a model, in one line."""


def in_one_line(error: Exception) -> str:
    """Return what a reader has run into; of code that may not be run, what to do."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if "trust_remote_code" in text:
        return "it needs Python code of its own: read that code, then add --trust-remote-code"
    return text
