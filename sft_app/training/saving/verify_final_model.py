"""The round trip: what was saved, loaded by a fresh process, is what was trained."""

import logging
from pathlib import Path

import torch
from torch import nn

from sft_app.common import ranks
from sft_app.loader.model.save_pretrained import serving_length
from sft_app.records.run_files import MODEL, VERIFICATION
from sft_app.records.verification import Verification
from sft_app.serving.expectations import probe_logits, write_expectations
from sft_app.serving.fresh_process import verify_in_fresh_process
from sft_app.training.model_plan import ModelPlans
from sft_app.training.peft.lora import plain_model
from sft_app.training.precision import name_of

log = logging.getLogger(__name__)


def write_expected(
    final: nn.Module, plans: ModelPlans, run_dir: Path, *, sharded: bool, on_rank_0: bool
) -> None:
    """Write what the saved model is to be found as; every rank calls it.

    `sharded`: each rank holds a part of `final`; `on_rank_0`: only rank 0 has its weights.
    """
    if on_rank_0 and not ranks.is_main():
        return
    model = plain_model(final)
    device = torch.device("cpu") if on_rank_0 else model.device
    probe = probe_logits(final, plans.tokenizer, device)
    if ranks.is_main():
        write_expectations(
            run_dir / VERIFICATION,
            model,
            plans.tokenizer,
            probe,
            serving_length=serving_length(plans.rope, plans.tokenizer_plan),
            saved_template=plans.tokenizer_plan.saved_chat_template
            or plans.tokenizer.chat_template,
            computed_in=name_of(plans.precision.compute if sharded else model.dtype),
        )


def verify_final_model(run_dir: Path, *, trust_remote_code: bool) -> Verification | None:
    """Return the verdict, on rank 0, which alone asks; and say it.

    `trust_remote_code`: the model was built by code that it carries, and that is saved with it.
    """
    verdict = None
    if ranks.is_main():
        verdict = verify_in_fresh_process(
            run_dir / MODEL, run_dir / VERIFICATION, trust_remote_code=trust_remote_code
        )
        level = logging.INFO if verdict.passed else logging.ERROR
        log.log(level, "%-16s%s", "saved model", verdict.sentence())
    ranks.barrier()
    return verdict
