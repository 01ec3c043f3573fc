"""A warm interpreter that forks: `python -m sft_app.launch.warm.fork_server`, of one sweep.

Nearly all of a short job's start is imports. This process imports them once, and then starts each
`python -m MODULE ARGUMENTS` that it is asked for as a child of its own, which finds everything
imported already. It computes nothing and touches no device: a child begins as a new process would.

Asked for, and answering, on a socket whose number it is given, a message each: see `warm_python.py`
for the other end. When that end is closed, or its parent dies, it ends, and its children with it.
"""

import argparse
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from sft_app.common.imports import lean_imports
from sft_app.common.processes import die_with_parent
from sft_app.compat.python_internals import end_process

MESSAGE_BYTES = 1 << 20
"""More than an environment and a command line take (Linux: 128 KiB a word, some 2 MiB in all)."""
READY = "ready"


def main() -> None:
    """Import what `--preload` names, say whether it can be forked, and serve until the end."""
    arguments = _parse_arguments()
    # Ctrl-C reaches every process of the terminal; the parent decides what becomes of the jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Asked whether there is a GPU, torch is to look at the driver's list and not to open it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with lean_imports(*arguments.without):
        importlib.import_module(arguments.preload)
    connection = socket.socket(fileno=arguments.socket)
    obstacle = obstacle_to_forking()
    connection.send(json.dumps({READY: obstacle is None, "obstacle": obstacle}).encode())
    if obstacle is None:
        serve(connection)


def obstacle_to_forking() -> str | None:
    """Say what an import has left behind that a child could not use; None: nothing.

    CUDA does not survive a fork, and cannot have been touched without its driver's library.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return "this system does not tell which libraries a process has loaded"
    if "/libcuda.so" in maps.read_text(encoding="utf-8", errors="replace"):
        return "an import has loaded CUDA's driver"
    return None


def serve(connection: socket.socket) -> None:
    """Fork a child for each request, and answer with its number, and later with its exit code."""
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is connection:
                message = connection.recv(MESSAGE_BYTES)
                if not message:
                    return
                pid = _fork(json.loads(message), connection, selector)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, data=pid)
                connection.send(json.dumps({"pid": pid}).encode())
            else:
                _, status = os.waitpid(key.data, 0)
                selector.unregister(key.fileobj)
                os.close(key.fd)
                ended = {"pid": key.data, "exit_code": os.waitstatus_to_exitcode(status)}
                connection.send(json.dumps(ended).encode())


def _fork(
    request: dict[str, Any], connection: socket.socket, selector: selectors.BaseSelector
) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    exit_code = 1
    try:
        selector.close()
        connection.close()
        os.setsid()
        die_with_parent()
        if os.getppid() == server:
            exit_code = _run(request)
    except BaseException:
        traceback.print_exc()
    finally:
        end_process(exit_code)


def _run(request: dict[str, Any]) -> int:
    """Be `python -m MODULE ARGUMENTS` in the environment of the request; return its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    if request["output"] is not None:
        with Path(request["output"]).open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
    torch: Any = sys.modules.get("torch")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdigit():  # read from the environment at import only
        torch.set_num_threads(int(threads))
    sys.argv = [request["module"], *request["arguments"]]
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="number of an open socket")
    parser.add_argument("--preload", required=True, help="the module that imports what is needed")
    parser.add_argument("--without", nargs="*", default=[], help="packages that nobody will use")
    return parser.parse_args()


if __name__ == "__main__":
    die_with_parent()
    main()
