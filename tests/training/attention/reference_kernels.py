"""The kernels of three packages, with their signatures, as plain recurrences that know documents.

Signatures are those of causal-conv1d 1.7.0, flash-linear-attention 0.6.0 and mamba-ssm 2.3.2.post1.
Installed, they are what transformers finds where it looks for these packages.
"""

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.integrations import use_kernel_func_from_hub_with_fallback


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
    final_states_out=None, activation=None,
):  # fmt: skip
    """x [B, D, T], weight [D, W], seq_idx [B, T]: sums over what is of the same document."""
    length = x.shape[-1]
    documents = torch.zeros(x.shape[0], length) if seq_idx is None else seq_idx
    output = torch.zeros_like(x) if bias is None else bias[:, None].expand_as(x)
    for back in range(min(weight.shape[1], length)):
        shifted = F.pad(x, (back, 0))[..., :length]
        same = F.pad(documents, (back, 0), value=-1)[:, :length] == documents
        output = output + shifted * same[:, None] * weight[:, -1 - back, None]
    return output if activation is None else F.silu(output)


def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False,
    state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None, chunk_indices=None, cp_context=None,
    **kwargs,
):  # fmt: skip
    """q, k [B, T, H, K], v [B, T, H, V], g and beta [B, T, H] -> [B, T, H, V], and no state."""
    return delta_rule(q, k, v, g[..., None], beta, cu_seqlens), None


def chunk_kda(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False,
    allow_neg_eigval=False, safe_gate=False, lower_bound=None, disable_recompute=False,
    return_intermediate_states=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None,
    cp_context=None, use_graph=False, max_num_seqs=None, **kwargs,
):  # fmt: skip
    """As the gated delta rule, with a decay for each key channel: g [B, T, H, K]."""
    return delta_rule(q, k, v, g, beta, cu_seqlens), None


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, cu_seqlens: Tensor | None
) -> Tensor:
    """S = exp(g) S + k (beta (v - S k)), o = S q, from nothing at each document's first token."""
    if cu_seqlens is not None and q.shape[0] != 1:
        raise ValueError("The batch size is expected to be 1 when using `cu_seqlens`.")
    begins = set() if cu_seqlens is None else set(cu_seqlens.tolist())
    groups = v.shape[2] // q.shape[2]
    q, k = (t * (t.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for t in (q, k))
    q, k = (t.repeat_interleave(groups, 2) for t in (q * q.shape[-1] ** -0.5, k))
    empty = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1])
    state, outputs = empty, []
    columns = zip(*(tensor.unbind(1) for tensor in (q, k, v, g, beta)), strict=True)
    for t, (query, key, value, decay, rate) in enumerate(columns):
        state = (empty if t in begins else state) * decay[..., None].exp()
        missing = value - (state * key[..., None]).sum(-2)
        state = state + key[..., None] * (rate[..., None] * missing)[..., None, :]
        outputs.append((state * query[..., None]).sum(-2))
    return torch.stack(outputs, 1)


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None,
    cu_seqlens=None, dt_softplus=False, dt_limit=(0.0, float("inf")), return_final_states=False,
    return_varlen_states=False,
):  # fmt: skip
    """h = exp(A dt) h + dt x B, y = h C + D x; x [B, T, H, P], dt [B, T, H], B, C [B, T, G, N]."""
    assert z is None and initial_states is None and cu_seqlens is None
    dt = dt if dt_bias is None else dt + dt_bias
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], 2) for t in (B, C))
    keep = torch.ones(x.shape[:2])
    if seq_idx is not None:
        keep[:, 1:] = (seq_idx[:, 1:] == seq_idx[:, :-1]).float()
    state, outputs = x.new_zeros(*x.shape[0:1], *x.shape[2:], B.shape[-1]), []
    scaled, decay = dt[..., None] * x, (A * dt).exp() * keep[..., None]
    columns = zip(*(tensor.unbind(1) for tensor in (scaled, decay, B, C)), strict=True)
    for new, kept, b, c in columns:
        state = state * kept[..., None, None] + new[..., None] * b[..., None, :]
        outputs.append((state * c[..., None, :]).sum(-1))
    return torch.stack(outputs, 1) + (0 if D is None else D[:, None] * x)


def mamba_split_conv1d_scan_combined(
    zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states=None,
    seq_idx=None, dt_limit=(0.0, float("inf")), return_final_states=False, activation="silu",
    rmsnorm_weight=None, rmsnorm_eps=1e-6, outproj_weight=None, outproj_bias=None, headdim=None,
    ngroups=1, norm_before_gate=True,
):  # fmt: skip
    """Mamba-2 from its input projection [B, T, z + x + B + C + dt] to its output, in one."""
    heads, channels = len(A), conv1d_weight.shape[0]
    inner = zxbcdt.shape[-1] - channels - heads
    state_size = (channels - inner) // (2 * ngroups)
    z, xbc, dt = zxbcdt.split([inner, channels, heads], -1)
    xbc = causal_conv1d_fn(
        xbc.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx, activation=activation
    ).transpose(1, 2)
    x, b, c = xbc.split([inner, ngroups * state_size, ngroups * state_size], -1)
    x, b, c = x.unflatten(-1, (heads, headdim)), *(t.unflatten(-1, (ngroups, -1)) for t in (b, c))
    y = mamba_chunk_scan_combined(
        x, dt, A, b, c, chunk_size, D, dt_bias=dt_bias, seq_idx=seq_idx, dt_softplus=True,
        dt_limit=dt_limit,
    ).flatten(2)  # fmt: skip
    if rmsnorm_weight is None:
        y = y * F.silu(z)
    else:
        assert not norm_before_gate
        y = (y * F.silu(z)).unflatten(-1, (ngroups, -1))
        y = (y * (y.square().mean(-1, keepdim=True) + rmsnorm_eps).rsqrt()).flatten(-2)
        y = y * rmsnorm_weight
    return y if outproj_weight is None else F.linear(y, outproj_weight, outproj_bias)


KERNELS: dict[str, Callable[..., Any]] = {
    "causal_conv1d.causal_conv1d_fn": causal_conv1d_fn,
    "fla.ops.gated_delta_rule.chunk_gated_delta_rule": chunk_gated_delta_rule,
    "fla.ops.kda.chunk_kda": chunk_kda,
    "mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined": mamba_chunk_scan_combined,
    "mamba_ssm.ops.triton.ssd_combined.mamba_split_conv1d_scan_combined": (
        mamba_split_conv1d_scan_combined
    ),
}
"""Where each kernel is in its package."""


def install(
    monkeypatch: pytest.MonkeyPatch, modeling: ModuleType, kernels: dict[str, Callable[..., Any]]
) -> None:
    """Have a family's code choose among these kernels, as it does when it is imported."""
    for path, kernel in kernels.items():
        *parents, name = path.split(".")
        module = sys.modules.get(parents[0])
        if module is None:
            module = ModuleType(parents[0])
            monkeypatch.setitem(sys.modules, parents[0], module)
        for parent in parents[1:]:
            if not hasattr(module, parent):
                setattr(module, parent, ModuleType(parent))
            module = getattr(module, parent)
        setattr(module, name, kernel)
    for name, function in list(vars(modeling).items()):
        if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
            continue
        known = inspect.getclosurevars(function).nonlocals
        if "is_new_implementation" in known:
            choose = use_kernel_func_from_hub_with_fallback(known["func_name"], known["package"])
            monkeypatch.setattr(modeling, name, choose(function.__wrapped__))
