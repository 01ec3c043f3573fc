"""Loss by position: where in a long text a model stops understanding it."""

from torch import Tensor

NUM_BINS = 32


def loss_by_position(losses: Tensor) -> dict[str, float]:
    """Return the mean loss of the tokens up to each of 32 positions, from the one before on.

    `losses` [N, T-1]: of each token but the first of N documents, read in one forward each. Keys:
    the last position of each bin, counted from 1, as text.
    """
    length = losses.shape[1] + 1
    bins = min(NUM_BINS, losses.shape[1])
    ends = [round((i + 1) * length / bins) for i in range(bins)]
    found = {}
    begin = 1
    for end in ends:
        if end > begin:  # losses[:, p - 1] is of the token at position p, counted from 0
            found[str(end)] = losses[:, begin - 1 : end - 1].double().mean().item()
            begin = end
    return found
