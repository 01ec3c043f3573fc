"""How the variable-length kernels are called, against stand-ins that obey their documentation."""

import inspect
import sys
from types import ModuleType

import pytest
import torch
from torch.nn.attention import varlen

from sft_app.training.attention.document_bounds import documents_of_lengths
from sft_app.training.attention.kernels import (
    AttentionSettings,
    flash_attn_varlen,
    one_call_per_document,
    torch_varlen,
)

LENGTHS = [7, 1, 12]


def reference(query, key, value, ends, longest, scale, window, softcap=None):
    """Documents between `ends`; window (left, right) in keys beside the query, -1: unbounded."""
    assert ends.dtype == torch.int32
    assert longest == max(LENGTHS)
    left, right = window
    scale = scale if scale is not None else query.shape[-1] ** -0.5
    outputs = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        q, k, v = query[start:end], key[start:end], value[start:end]
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        behind = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (behind < -right) if right >= 0 else torch.zeros_like(behind, dtype=torch.bool)
        if left >= 0:
            hidden |= behind > left
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(outputs)


def varlen_of_2_12(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1),
    enable_gqa=False,
):  # fmt: skip
    assert cu_seq_q is cu_seq_k
    assert enable_gqa == (query.shape[1] != key.shape[1])
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return reference(query, key, value, cu_seq_q, max_q, scale, window_size)


def varlen_of_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)
):
    assert query.shape[1] == key.shape[1]
    return reference(query, key, value, cu_seq_q, max_q, scale, window_size)


@pytest.mark.parametrize("kernel", [varlen_of_2_11, varlen_of_2_12])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("key_heads", [2, 4])
def test_torchs_kernel_gets_what_it_needs(monkeypatch, kernel, window, key_heads):
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    query, key, value = (torch.randn(20, heads, 8) for heads in (4, key_heads, key_heads))
    documents = documents_of_lengths(LENGTHS, "cpu", window)
    settings = AttentionSettings(scale=0.3)

    torch.testing.assert_close(
        torch_varlen(query, key, value, documents, settings),
        one_call_per_document(query, key, value, documents, settings),
    )


@pytest.mark.parametrize("window", [None, 3])
def test_flash_attn_gets_what_it_needs(monkeypatch, window):
    def flash(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options):
        assert options["causal"] is True
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scale, window_size = options["softmax_scale"], options["window_size"]
        return reference(
            q, k, v, cu_seqlens_q, max_seqlen_q, scale, window_size, options["softcap"]
        )

    module = ModuleType("flash_attn")
    vars(module)["flash_attn_varlen_func"] = flash
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    query, key, value = (torch.randn(20, heads, 8) for heads in (4, 2, 2))
    documents = documents_of_lengths(LENGTHS, "cpu", window)
    settings = AttentionSettings(softcap=2.0)

    torch.testing.assert_close(
        flash_attn_varlen(query, key, value, documents, settings),
        one_call_per_document(query, key, value, documents, settings),
        atol=1e-5,
        rtol=1e-4,
    )


def test_values_smaller_than_keys_are_padded_for_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Latent attention (MLA) of DeepSeek: 192 of a query against 128 of a value."""

    def varlen_of_equal_sizes(query, key, value, *args, **kwargs):
        assert query.shape[-1] == key.shape[-1] == value.shape[-1]
        return varlen_of_2_12(query, key, value, *args, **kwargs)

    varlen_of_equal_sizes.__signature__ = inspect.signature(varlen_of_2_12)  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen, "varlen_attn", varlen_of_equal_sizes)
    query, key, value = (torch.randn(sum(LENGTHS), 4, size) for size in (24, 24, 16))
    documents = documents_of_lengths(LENGTHS, "cpu")
    attended = torch_varlen(query, key, value, documents, AttentionSettings())
    expected = one_call_per_document(query, key, value, documents, AttentionSettings())
    torch.testing.assert_close(attended, expected)
