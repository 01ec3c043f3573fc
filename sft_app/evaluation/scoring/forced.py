"""Forced answers: one forward over prompt and answer tells what greedy decoding would say.

Greedy decoding gives an answer exactly when each of its tokens is the likeliest one after the
prompt and the tokens before it, which is what teacher forcing looks at, all tokens at once.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sft_app.evaluation.tasks.exercise import Sample
from sft_app.evaluation.token_reader import TokenReader


def forced_scores(reader: TokenReader, samples: Sequence[Sample]) -> list[float]:
    """Return, for samples of one length, the share of references whose tokens are all likeliest.

    The same on every rank.
    """
    length = len(samples[0].input_ids)
    longest = max(length - sample.prompt_length for sample in samples)
    found = torch.zeros(len(samples), longest)  # of the last tokens of each row
    batches = torch.arange(len(samples)).split(reader.rows_at_once(length))
    for number, counts in reader.split.turns(len(batches)):
        batch = batches[number]
        rows = torch.from_numpy(np.stack([samples[i].input_ids for i in batch]))
        wanted = torch.zeros(len(rows), length - 1, dtype=torch.bool)
        for row, i in enumerate(batch):
            wanted[row, samples[i].prompt_length - 1 :] = True
        hits = reader.hits(rows, wanted)
        if counts:
            found[batch] = hits[:, -longest:]
    found = reader.split.sum(found, reader.device)
    return [
        _share(sample, hits, length - longest) for sample, hits in zip(samples, found, strict=True)
    ]


def _share(sample: Sample, hits: torch.Tensor, first: int) -> float:
    """`hits` begin at position `first` of the row."""
    exact = [bool(hits[begin - first : end - first].all()) for begin, end in sample.spans]
    return sum(exact) / len(exact)
