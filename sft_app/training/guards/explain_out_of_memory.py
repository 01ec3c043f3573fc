"""What a rank whose memory ran out says: its batch, its peak, and what to change."""

import torch

from sft_app.config.schema.app import AppConfig
from sft_app.training.arguments import uses_cuda
from sft_app.training.estimates.less_memory import remedies
from sft_app.training.metrics.peak_memory import peak_memory_bytes
from sft_app.training.model_plan import plan_model
from sft_app.training.screen.screen_lines import size


def explain_out_of_memory(config: AppConfig) -> str:
    """Return batch, peak, estimate and remedies as the end of a sentence.

    The plans are made again: they take seconds and no memory, and are nobody's to keep until then.
    """
    on_cuda = uses_cuda(config.launch.device)
    device = torch.device("cuda" if on_cuda else "cpu")
    host, allocated = peak_memory_bytes()
    plans = plan_model(config, device)
    rows = config.trainer.per_device_train_batch_size
    told = (
        f"with micro-batches of {rows} x {plans.parallel.tokens_per_row:,} tokens; the peak was "
        f"{size(allocated if on_cuda else host)}, and a process was estimated to need "
        f"{size(plans.memory.total)}"
    )
    found = remedies(config, plans, device)
    if not found:
        return f"{told}: use a shorter context_length, or a smaller model"
    listed = "; ".join(f"{remedy.overrides} ({size(remedy.needed)})" for remedy in found)
    return f"{told}. In order of effect, each alone, with the estimate it leaves: {listed}"
