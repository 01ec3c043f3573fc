"""A process whose output is closed goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, subprocess, sys
from sft_app.common.console import RUN, guard_console
guard_console(RUN)
logging.basicConfig(filename=sys.argv[1], level=logging.INFO)
logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
print("first", flush=True)
sys.stdin.readline()
for number in range(2000):
    print("line", number, flush=True)
    logging.info("line %d", number)
    print("line", number, file=sys.stderr, flush=True)
subprocess.run([sys.executable, "-c", "print('a child, too', flush=True)"], check=True)
logging.info("done")
"""


def test_a_process_whose_output_is_closed_goes_on_and_says_so_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()  # as `| head -1` does
        process.stderr.close()
        process.stdin.write(b"go on\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    text = log.read_text()
    assert "line 1999" in text and text.rstrip().endswith("done")
    assert text.count("Nobody reads the output any more") == 2, "once for each stream"


def test_a_full_disk_is_still_an_error(tmp_path: Path) -> None:
    program = "from sft_app.common.console import guard_console; guard_console(); print(1)"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            check=False,
        )
    assert done.returncode != 0
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("command", ["sft_app.train --help", "sft_app.report outputs"])
def test_a_command_whose_reader_leaves_early_ends_in_silence(command: str, tmp_path: Path) -> None:
    """`sft-report | head -1`: there is no run that goes on, and nothing to say."""
    (tmp_path / "outputs").mkdir()
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            stdout=nobody,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            check=False,
        )
    assert b"Nobody reads" not in done.stderr and b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr
