"""How a rotary model reaches a context length, if it must be changed at all.

The rules: what fits is never touched. A new factor is always against the ORIGINAL context, so
methods never stack. A model that is scaled already keeps its makers' method. Layers with a window
keep their rope.
"""

from typing import Any

from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.rope.base_bound import SOURCE, base_bound
from sft_app.loader.rope.factor import choose_factor
from sft_app.loader.rope.methods import Extension, extended_parameters
from sft_app.loader.rope.model_context import (
    AttentionWindows,
    ModelContext,
    is_local,
    rope_parameter_sets,
    states_effective_length,
)
from sft_app.loader.rope.position_plan import PositionPlan
from sft_app.loader.rope.positions import ALL_LAYERS

_KEEPS_ORIGINAL = (RopeMethod.linear, RopeMethod.dynamic)
"""With these, readers multiply max_position_embeddings by the factor."""


def decide_rotary(
    text: PretrainedConfig,
    context: ModelContext,
    windows: AttentionWindows,
    rotary_dims: dict[str, int],
    length: int,
    rope: RopeConfig,
) -> PositionPlan:
    """Keep the model as it is, or extend it; ConfigError when what is asked for cannot be right."""
    if rope.method == RopeMethod.extend_positions:
        raise ConfigError(
            f"rope.method: extend_positions is for learned position tables, and {text.model_type} "
            "has rotary positions; use rope=linear, rope=yarn or rope=auto."
        )
    asked = None if rope.method in (RopeMethod.auto, RopeMethod.none) else rope.method
    if not rotary_dims:
        return _unchangeable(text, context, length)
    if _windows_bound(windows, context) and asked is None and not _fits(context, length):
        return _kept_by_windows(text, context, windows, length)
    if context.original is None or context.effective is None:
        raise ConfigError(
            f"model.original_context_length: null, and the {text.model_type} configuration does "
            "not say how long its context is; set model.original_context_length=<tokens>."
        )
    fits = _fits(context, length)
    if rope.method == RopeMethod.none:
        return _left_alone(text, context, length)
    if fits and not _extends_what_fits(context, asked, rope):
        _refuse_dynamic_training(context.rope_type, length, context.original, rope)
        return _kept(text, context, length, asked)
    method = asked or _own_method(context)
    _refuse_stacking(context, method, rope)
    _refuse_dynamic_training(method.value, length, context.original, rope)
    return _extended(text, context, rotary_dims, length, method, rope)


def _kept(
    text: PretrainedConfig, context: ModelContext, length: int, asked: RopeMethod | None
) -> PositionPlan:
    reason = f"{length} tokens fit the model's {context.effective}"
    if context.rope_type != "default":
        reason += f" (its own {context.rope_type} scaling stays as it is)"
    if asked is not None and asked.value != context.rope_type:
        reason += f"; {asked.value} is not needed"
    return _unchanged(text, context, reason)


def _left_alone(text: PretrainedConfig, context: ModelContext, length: int) -> PositionPlan:
    assert context.effective is not None
    if length <= context.effective:
        return _unchanged(text, context, f"{length} tokens fit the model's {context.effective}")
    reason = "rope.method=none: the positions are not touched"
    warning = (
        f"{length} tokens exceed the model's {context.effective} and rope.method=none "
        "extrapolates, which collapses for most models; rope=yarn or rope=linear extends them."
    )
    if context.rope_type != "default":
        return _unchanged(text, context, reason, warnings=(warning,))
    return _unchanged(text, context, reason, raised_to=length, warnings=(warning,))


def _kept_by_windows(
    text: PretrainedConfig, context: ModelContext, windows: AttentionWindows, length: int
) -> PositionPlan:
    # No query ever meets a key further away than the window: there is nothing to extend.
    reason = (
        f"every layer that rotates attends within a window of {windows.size} tokens, so no "
        "distance exceeds what the model knows: its rope is kept, max_position_embeddings raised"
    )
    if context.rope_type != "default" or context.effective is None:
        return _unchanged(text, context, reason)
    return _unchanged(text, context, reason, raised_to=length)


def _unchangeable(text: PretrainedConfig, context: ModelContext, length: int) -> PositionPlan:
    if _fits(context, length):
        return _unchanged(text, context, f"{length} tokens fit the model's {context.effective}")
    raise ConfigError(
        f"context_length: {length} exceeds the {context.effective} tokens of {text.model_type}, "
        "whose rotary module does not read its frequencies from the configuration; choose "
        f"context_length={context.effective} or less."
    )


def _windows_bound(windows: AttentionWindows, context: ModelContext) -> bool:
    """Tell whether no rotation can exceed what the model knows: a window must fit its context.

    Phi-3 states a window of 262,144 over a context of 131,072, which bounds nothing.
    """
    known = context.effective is None or (windows.size or 0) <= context.effective
    return windows.bound_all_rotation and known


def _fits(context: ModelContext, length: int) -> bool:
    return context.effective is not None and length <= context.effective


def _unchanged(
    text: PretrainedConfig,
    context: ModelContext,
    reason: str,
    *,
    raised_to: int | None = None,
    warnings: tuple[str, ...] = (),
) -> PositionPlan:
    parameters = getattr(text, "rope_parameters", None)
    positions = getattr(text, "max_position_embeddings", None)
    if context.rope_type == "yarn":
        # vLLM reads original * factor, SGLang this number: only if they agree both serve it whole.
        positions = context.effective
    elif context.rope_type in ("linear", "dynamic") and context.overridden:
        positions = context.original  # readers multiply it
    elif context.rope_type == "default" and positions and context.effective:
        positions = max(positions, context.effective)  # model.original_context_length may say more
    return PositionPlan(
        method="none" if context.rope_type == "default" else context.rope_type,
        changed=raised_to is not None,
        reason=reason,
        factor=context.factor,
        effective=raised_to or context.effective,
        rope_parameters=dict(parameters) if parameters else None,
        max_position_embeddings=raised_to or positions,
        warnings=warnings,
    )


def _extended(
    text: PretrainedConfig,
    context: ModelContext,
    rotary_dims: dict[str, int],
    length: int,
    method: RopeMethod,
    rope: RopeConfig,
) -> PositionPlan:
    assert context.original is not None
    sets = rope_parameter_sets(text)
    if not sets or any("rope_theta" not in p for p in sets.values()):
        raise ConfigError(
            f"rope.method: {method.value} cannot be set on {text.model_type}, which computes its "
            f"rope without parameters; choose context_length={context.effective} or less."
        )
    scaling = choose_factor(context, method, length, rope)
    factor = scaling.factor
    chosen = [t for t in sets if not is_local(t)] or list(sets)
    extended: dict[str, Any] = dict(sets)
    for layer_type in chosen:
        extended[layer_type] = extended_parameters(
            method,
            Extension(
                current=sets[layer_type],
                factor=factor,
                original=context.original,
                effective=scaling.effective,
                dim=rotary_dims.get(layer_type) or max(rotary_dims.values()),
                rope=rope,
            ),
        )
    kept = [t for t in sets if t not in chosen]
    reason = f"{length} tokens exceed the model's {context.effective}: {scaling.how}"
    if length <= (context.effective or 0):
        reason = f"rope.factor was given: {scaling.how}"
    if kept:
        reason += f"; {', '.join(kept)} layers see only a window and keep their rope"
    multiplied = method in _KEEPS_ORIGINAL and not (
        method == RopeMethod.linear and states_effective_length(text)
    )
    return PositionPlan(
        method=method.value,
        changed=True,
        reason=reason,
        factor=None if method == RopeMethod.abf else factor,
        effective=scaling.effective,
        rope_parameters=extended.get(ALL_LAYERS, {**(text.rope_parameters or {}), **extended}),
        max_position_embeddings=context.original if multiplied else scaling.effective,
        other_updates=_companions(text, context.original, method),
        warnings=_base_warnings(method, length, rope, [sets[t] for t in chosen]),
    )


def _base_warnings(
    method: RopeMethod, length: int, rope: RopeConfig, current: list[dict[str, Any]]
) -> tuple[str, ...]:
    bound = base_bound(length)
    if method != RopeMethod.abf:
        return ()
    if rope.theta is None:
        own = min(float(parameters["rope_theta"]) for parameters in current)
        if own < bound:
            return ()
        return (
            f"the model's own base, {own:,.0f}, is above the bound for {length:,} tokens: abf "
            f"leaves its rotation as it is; rope.theta={own * 50:g}, for example, raises it.",
        )
    if rope.theta >= bound:
        return ()
    return (
        f"rope.theta={rope.theta:g} is below {bound:,.0f} = 0.0424 * {length}^1.628, the fitted "
        f"bound on the base for {length:,} tokens ({SOURCE}): perplexity may look well where "
        "retrieval fails; rope.theta=null takes the bound.",
    )


def _companions(text: PretrainedConfig, original: int, method: RopeMethod) -> dict[str, Any]:
    """Attributes beside rope_parameters that transformers reads for these methods."""
    updates: dict[str, Any] = {}
    needs_head_dim = method in (RopeMethod.yarn, RopeMethod.dynamic, RopeMethod.longrope)
    if needs_head_dim and "head_dim" in vars(text) and vars(text)["head_dim"] is None:
        updates["head_dim"] = text.hidden_size // text.num_attention_heads
    if "original_max_position_embeddings" in vars(text):  # Phi-3: it outranks rope_parameters
        updates["original_max_position_embeddings"] = original
    return updates


def _extends_what_fits(context: ModelContext, asked: RopeMethod | None, rope: RopeConfig) -> bool:
    """Tell whether a factor was given to a method that takes one, and the model has another."""
    if rope.factor is None or asked in (None, RopeMethod.abf):
        return False
    return (context.rope_type, context.factor) != (asked, rope.factor)


def _own_method(context: ModelContext) -> RopeMethod:
    """Return what `auto` means: a scaled model's own method, else linear (FastChat's rule)."""
    if context.rope_type in ("default", "proportional") or context.is_pretrained_base:
        return RopeMethod.linear
    if context.rope_type == "longrope":
        raise ConfigError(
            f"context_length: the model's longrope divisors were searched for "
            f"{context.effective} tokens and say nothing beyond; choose context_length="
            f"{context.effective} or less, or give new lists with rope=longrope, or replace the "
            "method with rope=yarn rope.force=true."
        )
    try:
        return RopeMethod(context.rope_type)
    except ValueError:
        raise ConfigError(
            f"context_length: beyond the model's {context.effective} tokens its own rope type "
            f"{context.rope_type!r} would have to be extended, which is not supported; choose "
            f"context_length={context.effective} or less."
        ) from None


def _refuse_stacking(context: ModelContext, method: RopeMethod, rope: RopeConfig) -> None:
    own = context.rope_type
    if own == "proportional" and method != RopeMethod.linear:
        raise ConfigError(
            f"rope.method: {method.value} would turn the frequencies that stand still in this "
            "model's proportional rope; use rope=linear, which divides those that turn."
        )
    if rope.force or own in ("default", "proportional") or context.is_pretrained_base:
        return
    if own == method.value and (rope.factor is None or rope.factor >= (context.factor or 1.0)):
        return
    raise ConfigError(
        f"rope.method: {method.value} would replace the {own} scaling (factor {context.factor}) "
        "that the model was trained with; use rope=auto, which extends the model's own method, or "
        f"rope.force=true to replace it (against the original {context.original} tokens)."
    )


def _refuse_dynamic_training(method: str, length: int, original: int, rope: RopeConfig) -> None:
    if method == "dynamic" and length > original and not rope.force:
        raise ConfigError(
            f"rope.method: dynamic changes the frequencies with the length of each batch, so that "
            f"training beyond {original} tokens teaches a moving target; use rope=ntk or rope=yarn "
            "(with rope.force=true if the model is scaled already), or keep dynamic with "
            "rope.force=true."
        )
