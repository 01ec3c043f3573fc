"""A few gloo ranks, forked with all imports done: those cost more than all the rest.

Not from the test, but from a server that has imported and no more: where PyTorch is a CUDA build,
a process that had autograd's threads cannot run backward in its forks. So what is called has a name
in its module, and sees nothing that the test has patched.
"""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

IMPORTED = [
    "tests.forked_ranks",
    "tests.training.random_models",
    "sft_app.training.run_training",
    "transformers.models.llama.modeling_llama",
    "peft",
]


def on_two_forked_ranks(what: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call it on two ranks."""
    return on_forked_ranks(2, what, *arguments)


def on_forked_ranks(world_size: int, what: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `what(*arguments)` on all ranks, and return their answers; an exception is a failure.

    Answers are pickled: numpy arrays rather than tensors, which would share memory.
    """
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(IMPORTED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    ends, processes = [], []
    for rank in range(world_size):
        ours, theirs = fork.Pipe()
        process = fork.Process(target=_rank, args=(rank, world_size, port, theirs, what, arguments))
        process.start()
        ends.append(ours)
        processes.append(process)
    outcomes = [end.recv() if end.poll(120) else (False, "no answer") for end in ends]
    for process in processes:
        process.join(30)
    for succeeded, answer in outcomes:
        assert succeeded, answer
    return [answer for _, answer in outcomes]


def _rank(
    rank: int,
    world_size: int,
    port: int,
    end: Connection,
    what: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    try:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
        }  # fmt: skip
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
        end.send((True, what(*arguments)))
        dist.destroy_process_group()
    except BaseException:
        end.send((False, traceback.format_exc()))
