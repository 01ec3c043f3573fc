"""Each group of processes reads batches of its own, in one order, also after a resume."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard, prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from sft_app.data.batches.datasets import NumberedItems
from sft_app.data.batches.length_grouped_sampler import LengthGroupedSampler
from sft_app.training.parallel.data_ranks import data_parallel_rank

LENGTHS = [1 + 7 * i % 43 for i in range(43)]
Batches = list[list[int]]


def loader_of(rank: int, world_size: int, model_parallel_size: int) -> DataLoaderShard:
    """As accelerate prepares it for a process, batches of 2, and then shared."""
    Accelerator(cpu=True)  # its state, which the loader asks for
    data_parallel = data_parallel_rank(world_size, rank, model_parallel_size)
    examples: Any = range(len(LENGTHS))
    sampler = LengthGroupedSampler(LENGTHS, 2 * data_parallel.size, seed=1)
    loader = prepare_data_loader(
        DataLoader(examples, batch_size=2, sampler=sampler),
        num_processes=world_size,
        process_index=rank,
    )
    data_parallel.apply(loader)
    return loader


def epoch_of(loader: DataLoaderShard, epoch: int) -> Batches:
    loader.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def test_ranks_of_a_group_read_the_same_batches_and_groups_others() -> None:
    read = [epoch_of(loader_of(rank, world_size=4, model_parallel_size=2), 0) for rank in range(4)]
    assert read[0] == read[1]
    assert read[2] == read[3]
    both = [index for batch in [*read[0], *read[2]] for index in batch]
    assert sorted(both) == list(range(len(LENGTHS)))
    assert len(read[0]) == len(read[2]), "a group would wait for the other"


def test_each_item_is_learned_once_however_few_are_left_for_the_last_step() -> None:
    """Three groups and two batches left: the third reads an item without its labels."""
    item = {"input_ids": torch.arange(3), "labels": torch.arange(3), "loss_weights": torch.ones(3)}
    items = NumberedItems([item] * 9)
    learned: list[int] = []
    for rank in range(3):
        Accelerator(cpu=True)
        loader = prepare_data_loader(
            DataLoader(items, batch_size=2), num_processes=3, process_index=rank
        )
        data_parallel_rank(3, rank, 1).apply(loader)
        batches = list(loader)
        assert len(batches) == len(loader) == 2
        for batch in batches:
            has_labels = (batch["labels"] != -100).any(dim=1)
            assert torch.equal(has_labels, batch["loss_weights"].any(dim=1))
            learned += batch["item"][has_labels].tolist()
    assert sorted(learned) == list(range(9))


def test_one_group_reads_what_one_process_reads() -> None:
    alone = epoch_of(loader_of(0, world_size=1, model_parallel_size=1), 0)
    assert [len(batch) for batch in alone] == [2] * 21 + [1]
    assert epoch_of(loader_of(1, world_size=2, model_parallel_size=2), 0) == alone


@pytest.mark.parametrize(("world_size", "model_parallel_size"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_a_run_resumed_in_its_second_epoch_goes_on_in_that_order(
    world_size: int, model_parallel_size: int
) -> None:
    first, second = (
        epoch_of(loader_of(0, world_size, model_parallel_size), epoch) for epoch in (0, 1)
    )
    assert first != second
    resumed = skip_first_batches(loader_of(0, world_size, model_parallel_size), 1)
    assert epoch_of(resumed, 1) == second[1:]
