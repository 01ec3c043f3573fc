"""The files of a sharded model, written by several ranks, none of which holds the model.

Every tensor is gathered by all ranks, one after the other, and kept by the one that writes it: in
its host's memory there are its shards, and a tensor or two. Where files have other tensors than the
model (one for each expert, of which the model has a stack), those that make them are gathered
together, and taken apart by the rank that writes, by transformers' own code. The ranks that write
are those of rank 0's node: on the others the run's folder may be another disk's.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.common import ranks
from sft_app.common.counted import counted
from sft_app.common.raise_together import raise_together
from sft_app.compat import loading_and_saving
from sft_app.loader.checkpoint.tensor_headers import INDEX
from sft_app.loader.model.dtype import rounded
from sft_app.training.peft.merge_shards import gather_one
from sft_app.training.saving.tensor_file import TensorFile, can_be_written, in_file_order

LARGEST_FILE = 5 << 30
"""Bytes of a file, but for a tensor that is larger."""
SMALLEST_FILE = 1 << 30
"""Bytes that are not divided further to give every rank a file to write."""

Gather = Callable[[str], Callable[[], Tensor]]
"""Gathers a weight by its name in the model, with all ranks; what it returns gives the weight,
whole, and is called by who keeps it."""


@dataclass(frozen=True)
class Source:
    """A weight of the model."""

    name: str
    dtype: torch.dtype
    """That it is rounded to, before anything is made of it."""


@dataclass(frozen=True)
class SavedTensor:
    """One tensor of a file."""

    sources: tuple[Source, ...]
    """What it is made of, and maybe others with it."""
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class FilePlan:
    """A file, and who writes it."""

    name: str
    writer: int
    tensors: dict[str, SavedTensor]
    """By their names in the file."""

    @property
    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return what the file's header says."""
        return {name: (t.shape, t.dtype) for name, t in self.tensors.items()}


@dataclass(frozen=True)
class FilesPlan:
    """All files, and the index over several."""

    files: tuple[FilePlan, ...]
    index: dict[str, Any] | None

    def __str__(self) -> str:
        """Say who writes."""
        writers = counted(len({file.writer for file in self.files}), "rank")
        return f"{counted(len(self.files), 'file')} by {writers}, gathered tensor by tensor"


def plan_files(
    model: PreTrainedModel,
    main: torch.dtype,
    exceptions: dict[str, torch.dtype],
    *,
    state: dict[str, Tensor] | None = None,
    largest: int | None = None,
) -> FilesPlan | None:
    """Return which rank writes which tensors into which file; a collective, for rank 0 decides.

    `model` is whole or sharded; `main` and `exceptions` (by the model's names) are the dtypes that
    are saved; `state`: its tensors, by the plain model's names, where an adapter is among them;
    `largest`: bytes of a file (None: by size and ranks). None where what is saved is not
    what the model holds: where transformers ties tensors in a way of its own, or needs their
    numbers to tell what it makes of them.
    """
    message: list[FilesPlan | None] = [None]
    if ranks.is_main():
        state = model.state_dict(keep_vars=True) if state is None else state
        message = [_plan(model, state, main, exceptions, largest)]
    if ranks.is_distributed():
        dist.broadcast_object_list(message, src=0)
    return message[0]


def _plan(
    model: PreTrainedModel,
    state: dict[str, Tensor],
    main: torch.dtype,
    exceptions: dict[str, torch.dtype],
    largest: int | None,
) -> FilesPlan | None:
    names = _untied(model, state)
    if names is None:
        return None
    dtypes = {
        name: exceptions.get(name, main) if state[name].is_floating_point() else state[name].dtype
        for name in names
    }
    outline = {n: torch.empty(state[n].shape, dtype=dtypes[n], device="meta") for n in names}
    groups = loading_and_saving.saved_together(model, outline)
    if groups is None:
        return None
    tensors = {}
    for group in groups:
        sources = tuple(Source(name, dtypes[name]) for name in group.sources)
        for name, tensor in group.saved.items():
            tensors[name] = SavedTensor(sources, tuple(tensor.shape), tensor.dtype)
    if not all(can_be_written(tensor.dtype) for tensor in tensors.values()):
        return None
    # Each by itself: parts of one stack would count as the whole.
    outline = {n: torch.empty(t.shape, dtype=t.dtype, device="meta") for n, t in tensors.items()}
    total = sum(t.nbytes for t in outline.values())
    writers = local_ranks()
    if largest is None:
        largest = min(LARGEST_FILE, max(SMALLEST_FILE, -(-total // writers)))
    split = split_torch_state_dict_into_shards(
        outline, filename_pattern="model{suffix}.safetensors", max_shard_size=largest
    )
    files = tuple(
        FilePlan(file, number % writers, {name: tensors[name] for name in inside})
        for number, (file, inside) in enumerate(split.filename_to_tensors.items())
    )
    index = None
    if split.is_sharded:
        held = [state[name] for group in groups for name in group.sources]
        parameters = sum(t.numel() for t in held if isinstance(t, nn.Parameter))
        facts = {"total_parameters": parameters, **split.metadata}
        index = {"metadata": facts, "weight_map": split.tensor_to_filename}
    return FilesPlan(files, index)


def _untied(model: PreTrainedModel, state: dict[str, Tensor]) -> list[str] | None:
    """Return one name for each tensor, of tied ones that which the family keeps; None: unclear."""
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    names = []
    for group in groups.values():
        kept = [n for n in group if len(group) == 1 or n not in model.all_tied_weights_keys]
        if len(kept) != 1:
            return None
        names += kept
    return names


def local_ranks() -> int:
    """Return how many ranks, from 0 on, are on rank 0's node; 1 where nothing says it."""
    return min(ranks.world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def write_files(plan: FilesPlan, model: PreTrainedModel, gather: Gather, directory: Path) -> None:
    """Write the files of `plan`, made for `model`, into `directory`, which is there; a collective.

    What fails on one rank is raised on all of them, after the last tensor. Raises OSError.
    """
    writers = 1 + max(file.writer for file in plan.files)
    error: Exception | None = None
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        for first in range(0, len(plan.files), writers):
            try:
                _write_at_once(plan.files[first : first + writers], model, gather, directory, pool)
            except WriteFailed as failed:  # the others still need this rank's shards
                error = error or failed.error
    raise_together(error)
    if ranks.is_main() and plan.index is not None:
        text = json.dumps(plan.index, indent=2, sort_keys=True) + "\n"
        (directory / INDEX).write_text(text, encoding="utf-8")


class WriteFailed(Exception):
    """This rank could not write; it has gathered to the end all the same."""

    def __init__(self, error: Exception) -> None:
        """Keep what happened."""
        super().__init__(str(error))
        self.error = error


def _write_at_once(
    files: tuple[FilePlan, ...],
    model: PreTrainedModel,
    gather: Gather,
    directory: Path,
    pool: ThreadPoolExecutor,
) -> None:
    """Write one file on each of several ranks: what they are made of is gathered in turn."""
    mine = next((file for file in files if file.writer == ranks.rank()), None)
    wanted: dict[tuple[Source, ...], list[str]] = {}
    for name, tensor in mine.tensors.items() if mine is not None else ():
        wanted.setdefault(tensor.sources, []).append(name)
    out: TensorFile | None = None
    error: Exception | None = None
    if mine is not None:
        try:
            out = TensorFile(directory / mine.name, mine.layout)
        except OSError as failed:
            error = failed
    writing: Future[None] | None = None
    own: dict[str, Tensor] = {}
    for sources in _in_turn(files):
        gathered = {source: gather(source.name) for source in sources}
        if sources in wanted and out is not None and error is None:
            try:
                if writing is not None:
                    writing.result()  # one is written while the next is gathered, and no more
                own.clear()
                saved = _made_of(gathered, model)
                own.update((name, saved[name]) for name in wanted[sources])
                del saved
                writing = pool.submit(_add, out, own)
            except Exception as failed:
                error, writing = failed, None
        gathered.clear()  # before the next is gathered
    try:
        if writing is not None:
            writing.result()
        if out is not None:
            out.close()
            assert error is not None or not out.missing, out.missing
    except Exception as failed:
        error = error or failed
    if error is not None:
        raise WriteFailed(error)


def _in_turn(files: tuple[FilePlan, ...]) -> list[tuple[Source, ...]]:
    """Return what is gathered, once each; the files take turns."""
    orders = [[file.tensors[n].sources for n in in_file_order(file.layout)] for file in files]
    turns = [sources for turn in zip_longest(*orders) for sources in turn if sources is not None]
    return list(dict.fromkeys(turns))


def _made_of(
    gathered: dict[Source, Callable[[], Tensor]], model: PreTrainedModel
) -> dict[str, Tensor]:
    """Return what is saved of these weights, by the names in the files; empties `gathered`."""
    own = {}
    for source in list(gathered):
        weight = gathered.pop(source)()
        own[source.name] = rounded(weight, source.dtype, source.name).cpu()
        del weight
    return loading_and_saving.as_saved(model, own)


def _add(file: TensorFile, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        file.add(name, tensor)


def gather_from(model: nn.Module) -> Gather:
    """Return what gathers the weights of a sharded model by name."""
    state = model.state_dict()

    def gather(name: str) -> Callable[[], Tensor]:
        whole = gather_one(state[name])
        return lambda: whole

    return gather
