"""Make a learned position table longer by interpolating between its rows.

The idea of position interpolation (Chen et al. 2023, arXiv:2306.15595) for a table instead of
angles: n new positions are spread evenly over the m old ones, and a row between two old rows is
their weighted mean. Position p reads the old table at p (m - 1) / (n - 1), so that the first and
the last row stay what they were, and all n rows differ.
"""

import torch


def interpolated_table(table: torch.Tensor, length: int, offset: int) -> torch.Tensor:
    """Return a table for `length` positions, in the dtype of the old one.

    `table` is (offset + m, hidden); its first `offset` rows are reserved (OPT: 2) and are kept.
    """
    reserved, rows = table[:offset], table[offset:].double()
    old = rows.shape[0]
    assert length > old > 1
    place = torch.arange(length, dtype=torch.float64, device=table.device) * (old - 1)
    place = place / (length - 1)
    low = place.floor().long().clamp(max=old - 2)
    share = (place - low).unsqueeze(1)
    between = torch.lerp(rows[low], rows[low + 1], share)
    return torch.cat([reserved, between.to(table.dtype)])
