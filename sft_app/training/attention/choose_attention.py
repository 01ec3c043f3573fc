"""Which attention implementation a model gets, and why, in one line.

There is one decision: `choose_attention` makes an AttentionPlan from the configuration, the loader
builds the model with it, and `verify_attention` makes it an AttentionChoice on the loaded model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.compat import model_internals
from sft_app.loader.architecture.auto_class import model_class
from sft_app.training.attention import packed_attention
from sft_app.training.attention.document_kernels import (
    LayerCalls,
    call_leaking_layers,
    kernel_probe,
)
from sft_app.training.attention.packed_forward import install_packed_forward
from sft_app.training.attention.per_document import find_leaking_layers
from sft_app.training.attention.verify_isolation import (
    LENGTHS,
    probe_batch,
    probing,
    verify_isolation,
)
from sft_app.training.precision import compute_dtype

KERNELS_FAIL_WITH = (
    ValueError, TypeError, AttributeError, NotImplementedError, ImportError, RuntimeError,
    AssertionError, IndexError, KeyError,
)  # fmt: skip
"""What models and kernels raise where they are called as they cannot be; memory's end is none."""


class DocumentsLeak(ConfigError):
    """Packed documents see each other, whatever attends."""

    def __init__(self, model_class: str, hint: str, findings: str) -> None:
        """Say which model, what may mend it, and what was tried."""
        self.findings = findings
        super().__init__(
            f"data.packing=best_fit: {model_class} does not keep packed documents apart{hint}; "
            f"set data.packing=auto or none. Tried {findings}"
        )


@dataclass(frozen=True)
class AttentionPlan:
    """The implementation to load the model with, decided before weights are loaded."""

    name: str
    """For from_pretrained's `attn_implementation`."""
    reason: str
    asked_for: bool = False
    """The user named it: it is used or refused, never replaced."""

    def __str__(self) -> str:
        """Say it in a line of the log."""
        return f"attention       {self.name} ({self.reason})"


@dataclass(frozen=True)
class AttentionChoice:
    """The implementation that the loaded model trains with."""

    name: str
    reason: str

    def __str__(self) -> str:
        """Say it in a line of the log."""
        return f"attention       {self.name} ({self.reason})"


def choose_attention(
    model_config: PretrainedConfig, device: torch.device | str, requested: str
) -> AttentionPlan:
    """Choose from the configuration alone, before weights are loaded.

    `requested` is model.attn_implementation. Raises ConfigError for what cannot be right.
    """
    packed_attention.register()
    on_cuda = torch.device(device).type == "cuda"
    if requested != "auto":
        if not on_cuda and requested.startswith(("flash_attention", "flex_attention")):
            raise ConfigError(
                f"model.attn_implementation={requested} trains on CUDA only, and this runs on "
                f"{torch.device(device).type}; allowed here: auto, {packed_attention.NAME}, sdpa, "
                "eager"
            )
        return AttentionPlan(requested, "asked for by model.attn_implementation", asked_for=True)
    return _choose_automatically(model_config, on_cuda)


def _choose_automatically(model_config: PretrainedConfig, on_cuda: bool) -> AttentionPlan:
    family = model_config.model_type
    family_class = model_class(model_config)
    if family_class is None:
        return AttentionPlan("sdpa", f"{family} is code that its checkpoint carries")
    if not model_internals.can_set_attention(family_class):
        name = "sdpa" if model_internals.supports_sdpa(family_class) else "eager"
        return AttentionPlan(name, f"{family} has its own attention code")
    text_config = model_config.get_text_config(decoder=True)
    if getattr(text_config, "attn_logit_softcapping", None) is not None:
        if not on_cuda:
            reason = "soft-capped scores: plain attention inside each document"
            return AttentionPlan(packed_attention.NAME, reason)
        if is_installed("flash_attn"):
            reason = "soft-capped scores: flash-attn inside each document"
            return AttentionPlan(packed_attention.NAME, reason)
        return AttentionPlan("flex_attention", "soft-capped scores, and flash-attn is missing")
    how = "one SDPA call per document"
    if on_cuda:
        how = f"the variable-length flash kernel in 16 bits without dropout, else {how}"
    if not model_internals.supports_sdpa(family_class):
        how += f"; {family} allows no other fused kernel, so its own attention is compared"
    return AttentionPlan(packed_attention.NAME, how)


def verify_attention(
    model: PreTrainedModel, plan: AttentionPlan, called: nn.Module | None = None
) -> AttentionChoice:
    """Verify on the loaded model that packed documents stay apart; fall back until they do.

    Layers that know no documents are called once for each, or told them where their kernels are
    exact then. Call it when the model is as training will call it (use_cache off); `called` is what
    training calls, where that wraps the model.
    Returns what is in use; raises DocumentsLeak when no implementation isolates, or the one asked
    for does not.
    """
    install_packed_forward(model)
    fallbacks = () if plan.asked_for else (packed_attention.NAME, "sdpa", "eager")
    findings: list[str] = []
    for name in dict.fromkeys((plan.name, *fallbacks)):
        finding, patched = _try_implementation(model, name, called or model)
        if finding is None:
            findings += how_layers_are_called(patched)
            return AttentionChoice(name, "; ".join([plan.reason, *findings]))
        findings.append(f"{name}: {finding}")
    hint = " (use_cache is on: turn it off)" if getattr(model.config, "use_cache", False) else ""
    raise DocumentsLeak(type(model).__name__, hint, "; ".join(findings))


def how_layers_are_called(layers: list[LayerCalls]) -> list[str]:
    """Say which layers are called once per document, why not in one call, and which are."""
    found: list[str] = []
    once_each = [calls for calls in layers if not calls.keywords]
    if once_each:
        names = ", ".join(calls.layer for calls in once_each)
        reasons = dict.fromkeys(calls.reason for calls in once_each)
        found += [f"{names} called once per document", f"not in one call: {', '.join(reasons)}"]
    for calls in layers:
        if calls.keywords:
            told = ", ".join(calls.keywords)
            found.append(f"{calls.layer} called once for all documents, which it is told ({told})")
    return found


@torch.no_grad()
def difference_from_eager(model: PreTrainedModel, called: nn.Module, name: str) -> str | None:
    """Return how attention by `name` differs from the family's own; None: it does not.

    Families hand their attention what it may not look at: sinks, soft caps, a choice of blocks.
    The row is plain, and longer than every window and than what is chosen of it.
    """
    if name == "eager" or not model_internals.can_set_attention(type(model)):
        return None
    tokens = probe_batch(model)["input_ids"][:1]
    logits = []
    with probing(model):
        for implementation in ("eager", name):
            use_attention(model, implementation)
            logits.append(called(input_ids=tokens).logits.float()[0])
    difference = relative_difference(model, *reversed(logits))
    if difference <= difference_tolerated(model):
        return None
    return f"{name} differs from the family's own attention by {difference:.0e}"


def relative_difference(model: PreTrainedModel, logits: Tensor, expected: Tensor) -> float:
    """Return how far logits [T, V] are from what is expected, relative to it; infinity for NaN.

    Over all tokens in float32. In 16 bits the median token's: rounding sends a few tokens of a
    mixture to other experts, and what is computed otherwise changes most.
    """
    if compute_dtype(model) == torch.float32:
        difference = (logits - expected).norm() / expected.norm()
    else:
        difference = ((logits - expected).norm(dim=-1) / expected.norm(dim=-1)).median()
    return difference.item() if difference.isfinite() else float("inf")


def difference_tolerated(model: PreTrainedModel) -> float:
    """Return the relative difference that rounding alone may make."""
    return 1e-3 if compute_dtype(model) == torch.float32 else 0.1


def use_attention(model: PreTrainedModel, name: str) -> None:
    """Switch a loaded model to `name`; those with attention code of their own stay as they are."""
    if model_internals.can_set_attention(type(model)):
        model.set_attn_implementation(name)


def _try_implementation(
    model: PreTrainedModel, name: str, called: nn.Module
) -> tuple[str | None, list[LayerCalls]]:
    """Return what is wrong with `name`, None where documents are isolated; and patched layers."""
    patched: list[LayerCalls] = []
    try:
        difference = difference_from_eager(model, called, name)
        if difference is not None:
            return difference, patched
        use_attention(model, name)
        check = verify_isolation(model, called)
        if not check.isolated:
            patched = _patch_leaking_layers(model, called)
            check = verify_isolation(model, called) if patched else check
    except torch.OutOfMemoryError:
        raise
    except KERNELS_FAIL_WITH as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0], patched
    return (None if check.isolated else check.sentence()), patched


@torch.no_grad()
def _patch_leaking_layers(model: PreTrainedModel, called: nn.Module) -> list[LayerCalls]:
    batch, documents = probe_batch(model), kernel_probe(model)
    with probing(model):
        leaking = find_leaking_layers(model, lambda: called(**batch), LENGTHS[0])
        return call_leaking_layers(model, leaking, lambda: called(**documents))
