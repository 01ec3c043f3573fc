"""Processes end as Python's own do, but for what is native."""

import subprocess
import sys
import time

from tests.programs import ROOT

PROGRAM = """
import atexit, ctypes, sys, threading, time
from sft_app.compat.python_internals import end_process

libc = ctypes.CDLL(None)
native_end = ctypes.c_char_p(b"the native end")
libc.__cxa_atexit(libc.puts, native_end, None)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + program],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_threads_and_exit_functions_end_and_what_is_native_does_not() -> None:
    answer = run("""
threading.Thread(target=lambda: (time.sleep(0.3), print("a thread"))).start()
atexit.register(print, "the first exit function")
atexit.register(print, "the second")
sys.stdout.write("unflushed, ")
end_process(3)
""")
    assert answer.returncode == 3
    assert answer.stdout == "unflushed, a thread\nthe second\nthe first exit function\n"


def test_the_plain_end_does_more() -> None:
    """Else the test above would not show that it is left out."""
    assert run("sys.exit(3)").stdout == "the native end\n"


def test_who_has_taken_the_place_of_sys_exit_learns_the_code() -> None:
    """As W&B does, to tell completed runs from failed ones."""
    answer = run("""
def noting_exit(code, exit=sys.exit):
    print("with", code)
    exit(code)

sys.exit = noting_exit
end_process(1)
""")
    assert (answer.returncode, answer.stdout) == (1, "with 1\n")


def test_an_end_that_hangs_is_cut_off() -> None:
    started = time.monotonic()
    answer = run("""
atexit.register(time.sleep, 600)
print("what was printed is kept", flush=True)
end_process(143, within=0.5)
""")
    assert answer.returncode == 143
    assert answer.stdout == "what was printed is kept\n"
    assert time.monotonic() - started < 60


def test_an_exit_function_that_fails_changes_nothing() -> None:
    answer = run("""
atexit.register(print, "the other one")
atexit.register(lambda: 1 / 0)
end_process(0)
""")
    assert (answer.returncode, answer.stdout) == (0, "the other one\n")
    assert "ZeroDivisionError" in answer.stderr
