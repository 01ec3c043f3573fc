"""What a run is evaluated on, before and after training, and the evaluation itself."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.config.schema.app import AppConfig
from sft_app.data.prepare_data import PreparedData
from sft_app.evaluation.by_length import measure_by_length
from sft_app.evaluation.long_documents import LongDocuments, long_documents
from sft_app.evaluation.perplexity import limit_tokens, measure_loss
from sft_app.records.result import Evaluation


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Holds what a model is measured on: the same before and after training."""

    examples: list[dict[str, Tensor]]
    """Conversations, fitted to the context length: the loss on what the assistant says."""
    long: LongDocuments
    """Perplexity by context length: all tokens of the same documents, whatever was trained."""

    def __bool__(self) -> bool:
        """Tell whether there is anything to measure."""
        return bool(self.examples or self.long.documents)


def held_out(config: AppConfig, data: PreparedData, tokenizer: PreTrainedTokenizerBase) -> HeldOut:
    """Choose the held-out conversations and the long documents that a run is measured on."""
    examples: list[dict[str, Tensor]] = []
    if data.eval is not None:
        count = len(data.eval.lengths)
        if config.evaluation.max_examples is not None:
            count = min(count, config.evaluation.max_examples)
        first = [data.eval[i] for i in range(count)]
        examples = limit_tokens(first, config.evaluation.max_tokens)
    return HeldOut(examples=examples, long=long_documents(config, tokenizer))


def evaluate(
    config: AppConfig,
    model: PreTrainedModel,
    on: HeldOut,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> Evaluation:
    """Measure `model`; a collective: every rank calls it, and all get the same answer."""
    together = config.trainer.tensor_parallel_size > 1
    heldout = None
    if on.examples:
        heldout = measure_loss(
            model,
            on.examples,
            pad_token_id=tokenizer.pad_token_id,
            batch_size=config.evaluation.batch_size,
            device=device,
            together=together,
        )
    by_length = measure_by_length(model, on.long, device, together)
    return Evaluation(heldout=heldout, by_length=by_length)


def describe(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return (what, how much), in words for people."""
    lines = []
    if (m := evaluation.heldout) is not None:
        text = f"{m.loss:.4f} (perplexity {m.perplexity:.3f}, {m.tokens:,} tokens)"
        lines.append(("held-out loss", text))
    if evaluation.by_length:
        measured = [f"{int(n):,}: {m.perplexity:.3f}" for n, m in evaluation.by_length.items()]
        count = next(iter(evaluation.by_length.values())).examples
        lines.append(("by length", f"perplexity at {', '.join(measured)} ({count} documents)"))
    return lines
