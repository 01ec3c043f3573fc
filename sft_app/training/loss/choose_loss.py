"""Which head computes the loss, decided before weights are loaded."""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.config.schema.trainer import LossHead
from sft_app.loader.model.logit_transform import LogitTransform, logit_transform

LIGER_PACKAGE = "liger_kernel"


@dataclass(frozen=True)
class LossPlan:
    """How the loss is to be computed, decided before weights are loaded."""

    head: LossHead
    """Never auto."""
    reason: str
    asked_for: bool = False
    """The user named it: it is used or refused, never replaced."""


def plan_loss(
    asked: LossHead, pretrained: PretrainedConfig, device: torch.device | str
) -> LossPlan:
    """Choose by `asked` (trainer.loss_head); raise ConfigError where that cannot be had here."""
    if asked in (LossHead.chunked, LossHead.model):
        return LossPlan(asked, f"trainer.loss_head={asked}", asked_for=True)
    obstacle = _liger_obstacle(pretrained, torch.device(device))
    if asked is LossHead.liger:
        if obstacle is not None:
            raise ConfigError(
                f"trainer.loss_head=liger cannot be used here: {obstacle}; leave it out, or set "
                "trainer.loss_head=chunked."
            )
        return LossPlan(asked, "trainer.loss_head=liger", asked_for=True)
    if obstacle is None:
        return LossPlan(LossHead.liger, "liger-kernel is installed, and this is a GPU")
    return LossPlan(LossHead.chunked, obstacle)


def _liger_obstacle(pretrained: PretrainedConfig, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"fused kernels are for CUDA, and this runs on {device.type}"
    if not is_installed(LIGER_PACKAGE):
        return "liger-kernel is not installed (pip install 'sft-app[fused]')"
    if logit_transform(pretrained) != LogitTransform():
        return (
            f"{pretrained.model_type} scales or soft-caps its logits, which is not verified there"
        )
    return None
