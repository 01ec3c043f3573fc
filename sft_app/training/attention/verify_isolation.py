"""Verify, on the loaded model, that each packed document gets what it would get alone.

Nothing in a configuration tells whether a family honours position_ids that restart: some ignore
them in silence, and then every document is trained on what its neighbours say. So the model is
asked, with documents that are longer than its windows and chunks, which are shortened meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.training.precision import compute_dtype

LENGTHS = (13, 6, 1, 9)
"""Tokens of the probe's documents: more than a window, and no multiples of one."""
SHORT_WINDOW = 4
"""Tokens to which windows, chunks and the like are shortened."""
WINDOWS = (
    "sliding_window", "sliding_window_size", "attention_window_size", "window_size",
    "attention_chunk_size", "local_attention",
)  # fmt: skip
"""Names of numbers of tokens, in configurations and in modules, beyond which attention changes."""
SELECTIONS = ("index_topk", "keep_window_size")
"""Numbers of tokens that are chosen to be attended to, where there are more."""
SHORT_BLOCKS = {"block_size": SHORT_WINDOW, "topk_blocks": 2}
"""Tokens of a block, and how many blocks are chosen, in modules that have both."""
ALL_TOKENS = 1024
"""A number of tokens that no probe has."""
TOLERATED_SHARE = 1e-3
"""Of the effect that a token has inside its own document."""
TOLERATED_DIFFERENCE = {torch.float32: 1e-3}
TOLERATED_DIFFERENCE_IN_16_BITS = 0.1
"""Of what the logits lose where documents are not kept apart. Matrix products of other shapes round
differently, which shows in 16 bits."""


@dataclass(frozen=True)
class IsolationCheck:
    """What packing moved in the logits."""

    isolated: bool
    leak: float
    """Largest change of a logit in documents whose tokens were not touched."""
    control: float
    """Largest change of a logit in the document whose first token was changed."""
    difference: float
    """Root mean square of the difference between packed documents and the same ones alone."""
    difference_unpacked: float
    """The same, were the row one document."""

    def sentence(self) -> str:
        """Say by how much, in logits."""
        verdict = "packed documents are isolated" if self.isolated else "packed documents leak"
        return (
            f"{verdict}: changing one document moved the others' logits by {self.leak:.1e}, "
            f"and its own by {self.control:.1e}; packed and alone differ by {self.difference:.1e} "
            f"(as one document: {self.difference_unpacked:.1e})"
        )


@torch.no_grad()
def verify_isolation(model: PreTrainedModel, called: nn.Module | None = None) -> IsolationCheck:
    """Put packed rows, and their documents alone, through `called`, which may wrap the model.

    Row 0 is the reference; in row 1 the first document has other tokens; in row 2 only its first
    token is another, which shows how much a token can do where it may.
    """
    batch = probe_batch(model)
    tokens = batch["input_ids"][:1]
    with probing(model):
        logits = _logits(called or model, **batch)
        as_one = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        unpacked = _logits(called or model, input_ids=tokens, position_ids=as_one)[0]
        alone = torch.cat([_logits(called or model, **one)[0] for one in _documents(tokens)])
    reference, other_document, other_token = logits
    leak = (other_document - reference)[LENGTHS[0] :].abs().max().item()
    control = (other_token - reference)[1 : LENGTHS[0]].abs().max().item()
    difference = (reference - alone).square().mean().sqrt().item()
    difference_unpacked = (unpacked - alone).square().mean().sqrt().item()

    dtype = compute_dtype(model)
    rounding = 2 * torch.finfo(dtype).eps * reference.abs().max().item()
    share = TOLERATED_DIFFERENCE.get(dtype, TOLERATED_DIFFERENCE_IN_16_BITS)
    isolated = (
        control > rounding
        and leak <= max(TOLERATED_SHARE * control, rounding)
        and difference <= max(share * difference_unpacked, rounding)
    )
    return IsolationCheck(isolated, leak, control, difference, difference_unpacked)


def probe_batch(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return three packed rows [3, T] as `verify_isolation` describes them."""
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(vocab_size, (sum(LENGTHS),), generator=generator)
    rows = row.repeat(3, 1)
    rows[1, : LENGTHS[0]] = (rows[1, : LENGTHS[0]] + vocab_size // 2) % vocab_size
    rows[2, 0] = (rows[2, 0] + vocab_size // 2) % vocab_size
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).repeat(3, 1)
    return {"input_ids": rows.to(device), "position_ids": positions.to(device)}


@contextmanager
def probing(model: PreTrainedModel, *, selecting: bool = True) -> Iterator[None]:
    """Without dropout, which would drown the answer, and with short windows.

    Where tokens or blocks are chosen by their scores, few are; unless `selecting`, all.
    """
    was_training = model.training
    model.eval()
    try:
        with short_windows(model, selecting=selecting):
            yield
    finally:
        model.train(was_training)


@contextmanager
def short_windows(model: PreTrainedModel, *, selecting: bool = True) -> Iterator[None]:
    """Shorten every window and chunk, and every choice of tokens or blocks; put them back."""
    holders: list[Any] = [model.config, model.config.get_text_config(decoder=True)]
    for module in model.modules():
        holders += [module, getattr(module, "config", None)]
    before: list[tuple[Any, str, int]] = []
    try:
        for holder in {id(holder): holder for holder in holders}.values():
            for name, short in _short_numbers(holder, selecting).items():
                value = getattr(holder, name, None)
                if type(value) is int and (value > short or (name in SELECTIONS and not selecting)):
                    before.append((holder, name, value))
                    setattr(holder, name, short)
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _short_numbers(holder: Any, selecting: bool) -> dict[str, int]:
    """Return what the probe makes of each number that the holder may have."""
    numbers = dict.fromkeys(WINDOWS, SHORT_WINDOW)
    numbers |= dict.fromkeys(SELECTIONS, SHORT_WINDOW if selecting else ALL_TOKENS)
    if selecting and all(hasattr(holder, name) for name in SHORT_BLOCKS):
        numbers |= SHORT_BLOCKS
    return numbers


def _documents(tokens: Tensor) -> list[dict[str, Tensor]]:
    """Return the documents of a row [1, T] as batches of their own."""
    batches, start = [], 0
    for length in LENGTHS:
        positions = torch.arange(length, device=tokens.device).unsqueeze(0)
        batches.append({"input_ids": tokens[:, start : start + length], "position_ids": positions})
        start += length
    return batches


def _logits(called: nn.Module, **batch: Tensor) -> Tensor:
    logits: Tensor = called(**batch).logits
    return logits.float()
