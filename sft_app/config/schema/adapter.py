"""Parameter-efficient fine-tuning."""

from dataclasses import dataclass, field
from enum import StrEnum


class AdapterMethod(StrEnum):
    none = "none"
    lora = "lora"
    qlora = "qlora"


class Quantization(StrEnum):
    nf4 = "nf4"
    fp4 = "fp4"


@dataclass(kw_only=True)
class AdapterConfig:
    method: AdapterMethod = AdapterMethod.none
    rank: int = 16
    alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get an adapter; all-linear: every linear layer but the head."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA): for high ranks."""
    quantization: Quantization = Quantization.nf4
    """With qlora, the 16 levels of a frozen weight: nf4, those of a normal distribution; fp4, a
    4-bit floating-point number."""
    double_quantization: bool = True
    """With qlora: the quantisation constants in 8 bits instead of 32 (0.4 bits less per weight)."""
