"""Parameter-efficient fine-tuning."""

from dataclasses import dataclass, field
from enum import StrEnum


class AdapterMethod(StrEnum):
    """Which parameters are trained."""

    none = "none"
    """All parameters."""
    lora = "lora"
    """Low-rank matrices beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""
    qlora = "qlora"
    """The same beside weights in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""


class Quantization(StrEnum):
    """Which 16 levels a weight in 4 bits can have."""

    nf4 = "nf4"
    """The quantiles of a normal distribution."""
    fp4 = "fp4"
    """The values of a 4-bit floating-point number."""


@dataclass(kw_only=True)
class AdapterConfig:
    """Train a few parameters beside the model's own instead of all of them."""

    method: AdapterMethod = AdapterMethod.none
    """Which parameters are trained."""
    rank: int = 16
    """Inner size of an adapter's two matrices."""
    alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the linear layers, embeddings and stacked experts that get an adapter; all-linear:
    every linear layer but the head, and those experts that PEFT counts among them. The log names
    what is left as it is."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA): for high ranks."""
    quantization: Quantization = Quantization.nf4
    """With qlora, the 16 levels of a frozen weight: nf4, those of a normal distribution; fp4, a
    4-bit floating-point number."""
    double_quantization: bool = True
    """With qlora: the quantisation constants in 8 bits instead of 32 (0.4 bits less per weight)."""
