"""Run by test_tensor_parallel.py on two gloo ranks; each prints one line per thing that holds.

What the ranks compute with matrices that transformers cut is compared with the same checkpoint in
one process, through transformers' own attention and loss.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.compat.python_internals import end_process
from sft_app.config.schema.trainer import LossHead
from sft_app.evaluation.token_reader import TokenReader
from sft_app.loader.model.tensor_parallel import disown_tensor_parallel, tensor_parallel_arguments
from sft_app.training.loss.choose_loss import LossPlan
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.training.random_models import build_random_model
from tests.training.training_steps import Batch, collate, packed_rows, prepared

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "a tied head": ("llama", {"tie_word_embeddings": True}),
    "soft-capped scores and logits": (
        "gemma2",
        {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "biases": ("qwen2", {}),
    "norms of heads": ("qwen3", {"head_dim": 8}),
    "fused projections": ("phi3", {}),
    "mixture": ("mixtral", {}),
    "sliding window": ("mistral", {}),
}


def step(model: PreTrainedModel, batch: Batch) -> tuple[float, Batch]:
    loss = model(**batch, num_items_in_batch=20).loss
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients


def check_gradients(case: str, directory: Path) -> None:
    family, overrides = FAMILIES[case]
    batch = collate(packed_rows(3))
    batch["labels"] = batch["input_ids"].clone()
    if dist.get_rank() == 0:
        build_random_model(family, attention="eager", **overrides).save_pretrained(directory)
    dist.barrier()
    eager = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    eager.config.use_cache = False
    expected, gradients = step(eager, batch)

    cut = AutoModelForCausalLM.from_pretrained(directory, **tensor_parallel_arguments(2))
    cut.config.use_cache = False
    disown_tensor_parallel(cut)
    with pytest.raises(ConfigError, match="tensor-parallel ranks share it"):
        install_chunked_loss(cut, LossPlan(LossHead.liger, "asked for", asked_for=True))
    ours = prepared(cut)
    assert ours.loss.head is not LossHead.model, ours.loss
    assert cut(**batch).logits is None
    loss, found = step(ours.model, batch)
    assert loss == pytest.approx(expected, rel=1e-5), case
    assert found.keys() == gradients.keys()
    assert any(isinstance(gradient, DTensor) for gradient in found.values())
    for name, gradient in gradients.items():
        ours_whole = found[name]
        if isinstance(ours_whole, DTensor):
            ours_whole = ours_whole.full_tensor()
        torch.testing.assert_close(ours_whole, gradient, atol=1e-5, rtol=1e-4, msg=case)
    check_weights_of_tokens(eager, ours.model, batch)
    check_evaluation(eager, ours.model, batch)
    print(f"rank {dist.get_rank()}: {case}\n", end="", flush=True)  # in one piece


def check_evaluation(eager: PreTrainedModel, cut: PreTrainedModel, batch: Batch) -> None:
    """It takes the head's place, and leaves the head as transformers has cut it."""
    found = [TokenReader(model, "cpu").losses(batch["input_ids"]) for model in (eager, cut, cut)]
    for again in found[1:]:
        torch.testing.assert_close(again, found[0], atol=1e-5, rtol=1e-4)


def check_weights_of_tokens(eager: PreTrainedModel, cut: Any, batch: Batch) -> None:
    """trainer.loss_weighting=conversation: factors of the terms, a number of conversations."""
    weights = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(2))
    logits = eager(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    terms = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(),
                            reduction="none")  # fmt: skip
    expected = (terms * weights[:, 1:].flatten()).sum() / 5
    loss = cut(**batch, loss_weights=weights, num_items_in_batch=5).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for number, case in enumerate(FAMILIES):
        check_gradients(case, Path(sys.argv[1]) / str(number))
    dist.destroy_process_group()
    end_process(0)
