"""Two ranks: one reads the checkpoint, the other receives it, and both hold the same model once."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model import load_model as loading
from sft_app.loader.rope.rope_plan import plan_rope

MakeCheckpoint = Callable[..., ModelConfig]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(rank: int, port: int, checkpoint: ModelConfig, length: int, answer: Connection) -> None:
    try:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=2)
        config = load_pretrained_config(checkpoint)
        plan = plan_rope(config, length, RopeConfig())
        with mock.patch.object(loading, "_from_pretrained", wraps=loading._from_pretrained) as read:
            model = loading.load_model(checkpoint, config, plan)
        weights = {name: t.numpy().copy() for name, t in model.state_dict().items()}
        buffers = {name: t.numpy().copy() for name, t in model.named_buffers()}
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        ids = torch.arange(length)[None] % 90
        logits = model(input_ids=ids).logits.detach().numpy()
        answer.send((read.call_count, weights, buffers, tied, model.training, logits))
        dist.destroy_process_group()
    except BaseException:
        answer.send(traceback.format_exc())


@pytest.mark.parametrize(
    ("family", "length", "tied"), [("llama", 128, False), ("qwen2", 128, True), ("gptj", 64, False)]
)
def test_one_rank_reads_and_the_other_receives(
    make_checkpoint: MakeCheckpoint, family: str, length: int, tied: bool
) -> None:
    changes = {"tie_word_embeddings": True} if tied else {}
    checkpoint = make_checkpoint(family, **changes)
    fork = multiprocessing.get_context("fork")  # the imports cost more than all the rest
    port = _free_port()
    ends, processes = [], []
    for rank in range(2):
        ours, theirs = fork.Pipe()
        process = fork.Process(target=_rank, args=(rank, port, checkpoint, length, theirs))
        process.start()
        ends.append(ours)
        processes.append(process)
    answers: list[Any] = [end.recv() if end.poll(120) else "no answer" for end in ends]
    for process in processes:
        process.join(30)
    for answer in answers:
        assert not isinstance(answer, str), answer
    reader, receiver = answers
    assert (reader[0], receiver[0]) == (1, 0)  # checkpoints read
    for read, received in ((reader[1], receiver[1]), (reader[2], receiver[2])):
        assert read.keys() == received.keys()
        assert all((read[name] == received[name]).all() for name in read)
    assert reader[3] is receiver[3] is tied
    assert reader[4] == receiver[4]
    assert (reader[5] == receiver[5]).all()
