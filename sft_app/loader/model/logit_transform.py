"""What a family does to its logits after the head."""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""As Gemma, RecurrentGemma and xLSTM call it."""


@dataclass(frozen=True)
class LogitTransform:
    """Says what a family does to its logits: softcap * tanh(scale * logit / softcap)."""

    scale: float = 1.0
    softcap: float | None = None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the transformed logits; works in place."""
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


def logit_transform(pretrained: PretrainedConfig) -> LogitTransform:
    """Return scaling and soft-capping of the logits, from the names that families give them."""
    config = pretrained.get_text_config(decoder=True)
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
        scale *= getattr(config, name, None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    caps = (getattr(config, name, None) for name in SOFT_CAPS)
    return LogitTransform(scale, next((cap for cap in caps if cap is not None), None))
