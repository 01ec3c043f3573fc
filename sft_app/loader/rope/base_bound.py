"""How large a base has to be for a context: what abf takes when no base is named."""

import math

SOURCE = "arXiv:2405.14591, figure 1"


def base_bound(context_length: int) -> float:
    """Return the base of RoPE that `context_length` tokens ask for: 0.0424 * L^1.628.

    A power law fitted to the smallest bases with which a model can still tell similar tokens from
    others at every distance within the context (Xu et al. 2024, arXiv:2405.14591, the legend of
    figure 1). It is a fit through the points of the paper's table, up to a factor of 2 off at
    single ones.
    """
    return 0.0424 * float(context_length) ** 1.628


def smallest_base(context_length: int, own: float) -> float:
    """Return the base that abf takes by itself: the bound in whole numbers, never below `own`."""
    return max(own, float(math.ceil(base_bound(context_length))))
