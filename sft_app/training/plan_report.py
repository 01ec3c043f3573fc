"""What sft-plan prints."""

import torch
from rich.console import Console

from sft_app.config.schema.app import AppConfig
from sft_app.data.preview import preview
from sft_app.training.arguments import uses_cuda
from sft_app.training.model_plan import plan_data, plan_model


def print_plan(config: AppConfig) -> None:
    """Plans, data statistics and, with data.preview=N, the first N training examples by label."""
    device = torch.device("cuda" if uses_cuda(config.launch.device) else "cpu")
    plans = plan_model(config, device)
    print(plans)
    data = plan_data(config, plans.tokenizer)
    print(data.statistics)
    if config.data.preview:
        Console().print(preview(data, plans.tokenizer, config.data.preview))
