"""Fine-tune causal language models on chat data at contexts longer than they were trained for.

The commands are sft-train, sft-plan and sft-report; from Python, sft_app.compose, .plan, .train and
.report (see sft_app/api.py).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_app.api import compose as compose
    from sft_app.api import plan as plan
    from sft_app.api import report as report
    from sft_app.api import train as train

__version__ = "0.2.0"

__all__ = ["compose", "plan", "report", "train"]


def __getattr__(name: str) -> Any:
    """Import the functions when they are asked for: a worker has no use for them."""
    from importlib import import_module

    if name == "compose":
        return import_module("sft_app.api").compose
    if name in __all__:
        return import_module(f"sft_app.{name}")
    raise AttributeError(f"module 'sft_app' has no attribute '{name}'")
