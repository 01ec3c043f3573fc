"""What Python itself has no public name for."""

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn

SECONDS_AFTER_A_FAILURE = 30
"""For exit functions of a rank that failed: other ranks may wait for its end."""


def end_process(exit_code: int, *, within: float | None = None) -> NoReturn:
    """End this process as Python's own end would, without the native end that follows it.

    Python waits for its threads, and calls its exit functions: in them W&B, MLflow and others send
    what they still hold. The native end after that can abort in PyTorch, long after all was done
    ("terminate called without an active exception"), and can wait for other ranks that never
    answer. multiprocessing ends its forked children like this, too.

    `within`: seconds after which the process ends anyway, for an end in which something may hang.
    """
    if within is not None:
        deadline = threading.Timer(within, os._exit, [exit_code])
        deadline.daemon = True
        deadline.start()
    with contextlib.suppress(SystemExit):
        sys.exit(exit_code)  # where trackers that have put themselves in its place note the code
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
