"""Parameter-efficient fine-tuning."""

from dataclasses import dataclass, field
from enum import StrEnum


class AdapterMethod(StrEnum):
    none = "none"
    lora = "lora"
    qlora = "qlora"


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
