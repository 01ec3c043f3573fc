"""What context a checkpoint has before anything is planned: original, effective, and windows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from sft_app.loader.rope.positions import ALL_LAYERS

_RECURRENT = ("linear", "recurrent", "mamba", "conv")
"""In the names of layers that have no attention."""

_ROTATE_ONLY_IN_WINDOWS = frozenset({"afmoe", "cohere2", "exaone4", "exaone_moe"})
"""Families whose layers without a window have no positions at all (read in their attention code;
their configurations do not say it)."""

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds of scaling whose frequencies follow the largest position of a forward."""


@dataclass(frozen=True, kw_only=True)
class ModelContext:
    """How far a checkpoint reaches as it is. Lengths are in tokens."""

    rope_type: str
    """`default` when the model is not scaled."""
    factor: float | None
    original: int | None
    """Tokens of the pre-training context, the base of every factor; None: nowhere stated."""
    original_source: str
    effective: int | None
    """Tokens that the model can take as it is."""
    overridden: bool = False
    """Whether model.original_context_length had the last word."""
    is_pretrained_base: bool = False
    """Whether what reads as scaling is the base that all of the pre-training had: HunYuan's."""


@dataclass(frozen=True, kw_only=True)
class AttentionWindows:
    """How many layers see only a window."""

    size: int | None
    """Tokens that a windowed layer sees; None: no layer has a window."""
    windowed_layers: int
    layers: int
    """Layers with attention; recurrent ones are not counted."""
    bound_all_rotation: bool
    """Whether every rotated layer has a window, so that no rotation ever exceeds it."""

    @property
    def everywhere(self) -> bool:
        """Tell whether no layer sees everything."""
        return self.size is not None and self.windowed_layers == self.layers


def rope_parameter_sets(text: PretrainedConfig) -> dict[str, dict[str, Any]]:
    """Return the model's rope parameters by layer type; under `ALL_LAYERS` if they are alike.

    Layer types without positions (None in the configuration) are left out.
    """
    parameters = getattr(text, "rope_parameters", None)
    if not isinstance(parameters, Mapping) or not parameters:
        return {}
    if any(isinstance(value, Mapping) for value in parameters.values()):
        return {k: dict(v) for k, v in parameters.items() if isinstance(v, Mapping)}
    return {ALL_LAYERS: dict(parameters)}


def follows_length(config: PretrainedConfig) -> bool:
    """Tell whether the frequencies of any layer follow the length of what is read at once."""
    sets = rope_parameter_sets(config.get_text_config(decoder=True))
    return any(found.get("rope_type") in LENGTH_DEPENDENT for found in sets.values())


def is_local(layer_type: str) -> bool:
    """Tell whether layers of this type have a window, and so never need another rope."""
    return any(word in layer_type for word in ("sliding", "chunked", "local"))


def read_context(text: PretrainedConfig, *, original: int | None = None) -> ModelContext:
    """Read the model's own context from its text configuration.

    `original` (model.original_context_length) overrides what it says.

    Conventions of the methods: with linear and dynamic scaling `max_position_embeddings` is the
    context BEFORE scaling, and the effective one is that times the factor; with llama3 and longrope
    it is the effective one; yarn's effective context is its factor times its own
    `original_max_position_embeddings`. Gemma 3 states the effective one throughout.
    """
    stated, stated_as = _stated_length(text)
    sets = rope_parameter_sets(text)
    scaled = {k: p for k, p in sets.items() if p.get("rope_type", "default") != "default"}
    global_scaled = {k: p for k, p in scaled.items() if not is_local(k)}
    parameters = next(iter(global_scaled.values()), {})
    rope_type = str(parameters.get("rope_type", "default"))
    factor = float(parameters["factor"]) if parameters.get("factor") else None
    noted = parameters.get("original_max_position_embeddings") or getattr(
        text, "original_max_position_embeddings", None
    )

    base: int | None
    if original is not None:
        base, source = original, "model.original_context_length"
    elif rope_type not in ("default", "proportional") and noted:
        base, source = int(noted), "original_max_position_embeddings"
    elif rope_type == "linear" and factor and stated and states_effective_length(text):
        base, source = round(stated / factor), f"{stated_as} / factor {factor:g}"
    else:
        base, source = stated, stated_as

    effective: int | None
    if rope_type in ("linear", "dynamic", "yarn", "proportional") and base and factor:
        effective = round(base * factor)
    elif rope_type in ("llama3", "longrope") or original is None:
        effective = stated
    else:
        effective = original
    return ModelContext(
        rope_type=rope_type,
        factor=factor,
        original=base,
        original_source=source,
        effective=effective,
        overridden=original is not None,
        is_pretrained_base=states_alpha(parameters),
    )


def states_alpha(parameters: Mapping[str, Any]) -> bool:
    """Tell whether the base is stated as an NTK-aware scaling by a fixed alpha, as HunYuan does."""
    return parameters.get("rope_type") == "dynamic" and bool(parameters.get("alpha"))


def states_effective_length(text: PretrainedConfig) -> bool:
    """Tell whether max_position_embeddings includes the factor of linear scaling: Gemma 3's does.

    The serving engines know the family by its name, and so must we.
    """
    return "gemma3" in text.model_type


def attention_windows(text: PretrainedConfig) -> AttentionWindows:
    """Count the layers that see only a window, and read its size."""
    layers = int(getattr(text, "num_hidden_layers", 0) or 0)
    window = getattr(text, "sliding_window", None)
    layer_types = [str(t) for t in getattr(text, "layer_types", None) or []]
    layer_types = [t for t in layer_types if not any(word in t for word in _RECURRENT)]
    if layer_types:
        layers = len(layer_types)
    if any("chunked" in t for t in layer_types) and not window:
        window = getattr(text, "attention_chunk_size", None)
    windowed = sum(is_local(t) for t in layer_types) if layer_types else layers
    if not isinstance(window, int) or window <= 0 or not windowed:
        return AttentionWindows(
            size=None, windowed_layers=0, layers=layers, bound_all_rotation=False
        )
    rotated = rope_parameter_sets(text)
    only_local_sets = ALL_LAYERS not in rotated and all(is_local(t) for t in rotated)
    return AttentionWindows(
        size=window,
        windowed_layers=windowed,
        layers=layers,
        bound_all_rotation=(
            windowed == layers
            or text.model_type in _ROTATE_ONLY_IN_WINDOWS
            or (bool(rotated) and only_local_sets)
        ),
    )


def _stated_length(text: PretrainedConfig) -> tuple[int | None, str]:
    # Command-R notes its real length so, and its makers' engine and vLLM go by it.
    noted = vars(text).get("model_max_length")
    positions = getattr(text, "max_position_embeddings", None)
    plain = all(
        p.get("rope_type", "default") == "default" for p in rope_parameter_sets(text).values()
    )
    if isinstance(noted, int) and isinstance(positions, int) and noted > positions and plain:
        return noted, "model_max_length"
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(text, name, None)
        if isinstance(value, int | float) and value > 0:
            return int(value), name
    return None, "not stated"
