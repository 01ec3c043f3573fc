"""Muon for the matrices between embedding and head, AdamW for everything else.

Muon's update of a matrix is its momentum made orthogonal (Jordan et al. 2024); scaled to the size
of AdamW's updates (Liu et al. 2025, arXiv:2502.16982), so that one learning rate suits both.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from sft_app.config.schema.trainer import TrainerConfig
from sft_app.training.optim.weight_decay import is_table

Groups = list[dict[str, Any]]


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers of PyTorch's over one list of groups and one state, as the Trainer wants it.

    `groups` hold `params` and `weight_decay`; parameters in `not_hidden` (embedding and head) and
    those that are no matrices are AdamW's.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        not_hidden: list[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """Divide the groups between the two, and share their state."""
        excluded = {id(parameter) for parameter in not_hidden}

        def is_muons(parameter: nn.Parameter) -> bool:
            return parameter.ndim == 2 and id(parameter) not in excluded

        self.muon = torch.optim.Muon(
            _groups_of(groups, is_muons), lr=lr, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = torch.optim.AdamW(
            _groups_of(groups, lambda p: not is_muons(p)), lr=lr, betas=betas, eps=eps
        )
        # Schedules that end at a rate of their own ask the defaults for the highest.
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {"lr": lr})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter."""
        assert closure is None, "neither the Trainer nor accelerate passes one"
        self.muon.step()
        self.adamw.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict()` of another instance returned."""
        super().load_state_dict(state_dict)  # which makes new groups and a new state
        self._share()

    def _share(self) -> None:
        muons = len(self.muon.param_groups)
        self.muon.param_groups = self.param_groups[:muons]
        self.adamw.param_groups = self.param_groups[muons:]
        self.muon.state = self.adamw.state = self.state


def _groups_of(groups: Groups, wanted: Callable[[nn.Parameter], bool]) -> Groups:
    chosen = [{**group, "params": [p for p in group["params"] if wanted(p)]} for group in groups]
    return [group for group in chosen if group["params"]]


def muon_for(model: PreTrainedModel, trainer: TrainerConfig) -> tuple[type, dict[str, Any]]:
    """Return what the Trainer calls with its parameter groups."""
    return MuonAndAdamW, {
        "not_hidden": _not_hidden(model),
        "lr": trainer.learning_rate,
        "betas": (trainer.adam_beta1, trainer.adam_beta2),
        "eps": trainer.adam_epsilon,
    }


def _not_hidden(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return what no hidden layer multiplies by: embeddings of words and positions, and the head.

    And parameters that are a table of numbers for each channel, such as a state space's `A_log`.
    """
    head = model.get_output_embeddings()
    layers = [model.get_input_embeddings(), *([] if head is None else [head])]
    layers += [module for module in model.modules() if isinstance(module, nn.Embedding)]
    outer = [p for layer in layers for p in layer.parameters()]
    tables = [p for name, p in model.named_parameters() if is_table(name)]
    return [*outer, *tables]
