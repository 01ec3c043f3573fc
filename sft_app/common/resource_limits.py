"""Limits on the time and memory of code that came with a download: chat templates are programs."""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sft_app.common.errors import ConfigError


class TooExpensive(BaseException):
    """What ran under a limit took more than it may; the message says of what.

    No Exception: neither the code that is limited nor a caller that forgives it may go on.
    """


@contextmanager
def chat_template_limits(seconds: float = 10, growth: int = 1 << 30) -> Iterator[None]:
    """Let a chat template render some short conversations; a thousand turns take 10 ms.

    Raises ConfigError where it computes for `seconds`, or needs `growth` bytes of memory.
    """
    try:
        with cpu_limit(seconds), memory_limit(growth):
            yield
    except (TooExpensive, MemoryError) as error:
        what = str(error) or f"more than {growth >> 20:,} MiB of memory"
        raise ConfigError(
            f"tokenizer.chat_template: one short question takes {what}: name another template, "
            "tokenizer.chat_template=/path/to/template.jinja."
        ) from error


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TooExpensive in the block once the process has computed for `seconds`.

    Only Python code is stopped, and only in the main thread, where signals arrive; elsewhere
    nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooExpensive(f"more than {seconds:g} seconds of computing")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let the process grow by at most `size` bytes in the block; MemoryError says that it is more.

    Where the system does not tell how large a process is, nothing is limited.
    """
    statm = Path("/proc/self/statm")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if not statm.exists():
        yield
        return
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    wanted = now + size
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
