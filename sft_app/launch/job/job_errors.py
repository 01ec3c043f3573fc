"""How a job ends that does not complete."""

import signal


class JobFailed(Exception):
    """The job ended without completing; one string, so that any launcher can pickle it."""

    def __init__(self, message: str, exit_code: int = 1, *, is_told: bool = False) -> None:
        """Hold one sentence, the exit code of the command, and whether it was printed already."""
        super().__init__(message, exit_code)
        self.exit_code = exit_code
        self.is_told = is_told

    def __str__(self) -> str:
        """Return the sentence alone."""
        return str(self.args[0])


class JobInterrupted(KeyboardInterrupt):
    """A signal ended the job. No Exception, which a sweep would note and pass over."""

    def __init__(self, signum: int) -> None:
        """Hold the exit code by which shells tell of a signal: 128 and its number."""
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum
