"""Parameter-efficient fine-tuning."""

from dataclasses import dataclass
from enum import StrEnum


class AdapterMethod(StrEnum):
    none = "none"
    lora = "lora"
    qlora = "qlora"


@dataclass(kw_only=True)
class AdapterConfig:
    method: AdapterMethod = AdapterMethod.none
