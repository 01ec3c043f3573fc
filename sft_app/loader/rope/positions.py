"""How a model knows where a token stands: found out from its architecture, before weights are read.

The architecture is built on torch's meta device, where tensors have shapes and no memory, and then
looked at. A configuration alone does not tell: some carry `rope_parameters` and never rotate, and
Falcon carries rotary buffers that its ALiBi variant does not use.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.loader.architecture.skeleton import build_skeleton

ALL_LAYERS = "all"
"""Name of the one frequency set of a model that rotates all its layers alike."""

_NOT_TEXT = ("vision", "visual", "audio", "image", "speech")


class PositionKind(StrEnum):
    """The ways in which a model can know where a token stands."""

    rotary = "rotary"
    rotary_table = "rotary table"
    """A table of sines and cosines of fixed size (GPT-J, CodeGen)."""
    learned = "learned table"
    sinusoidal = "sinusoidal table"
    """Fixed sines added to the embeddings (CTRL, XGLM)."""
    alibi = "ALiBi"
    none = "none"
    """Recurrence carries the order (Mamba, RWKV), or nothing does (rope=drope)."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """A model's kind of positions, and where in its architecture they are."""

    kind: PositionKind
    rotary_dims: dict[str, int] = field(default_factory=dict)
    """Rotated dimensions of each head, for each layer type (`ALL_LAYERS` if they are alike)."""
    rotary_class: type[nn.Module] | None = None
    """The module that turns the configuration into inverse frequencies; None: it takes none."""
    table: str | None = None
    """Dotted name of the table's module."""
    table_length: int | None = None
    """Positions that the table holds, without rows reserved for other uses."""
    table_offset: int = 0
    """Reserved rows before position 0 (2 in OPT)."""


def detect_positions(config: PretrainedConfig) -> Positions:
    """Say what kind of positions the causal LM of `config` has.

    Raises ConfigError when transformers cannot build the architecture as a causal LM.
    """
    model = build_skeleton(config)
    text = config.get_text_config(decoder=True)
    if _uses_alibi(model, text):
        return Positions(kind=PositionKind.alibi)
    rotary = _rotary_positions(model, text)
    if rotary is not None:
        return Positions(kind=PositionKind.none) if _no_layer_rotates(model) else rotary
    table = _table_positions(model)
    if table is not None:
        _refuse_encoder(model, text)
    return table or Positions(kind=PositionKind.none)


def rotary_modules(
    model: nn.Module, text: PretrainedConfig
) -> Iterator[tuple[str, nn.Module, dict[str, str]]]:
    """Yield (name, module, {layer type: buffer name}) wherever the text's frequencies are held.

    Vision and audio towers have rotary modules too; theirs carry another configuration.
    """
    for name, module in model.named_modules():
        buffers = _frequency_buffers(module)
        if buffers and getattr(module, "config", None) is text:
            yield name, module, buffers


def _frequency_buffers(module: nn.Module) -> dict[str, str]:
    return {
        buffer.removesuffix("inv_freq").removesuffix("_") or ALL_LAYERS: buffer
        for buffer, _ in module.named_buffers(recurse=False)
        if buffer.endswith("inv_freq") and "original" not in buffer
    }


def _uses_alibi(model: nn.Module, text: PretrainedConfig) -> bool:
    attention = getattr(text, "attn_config", None)  # MPT keeps its flag there
    for holder in (text, attention):
        flag = getattr(holder, "alibi", None)
        if flag is not None:
            return bool(flag)
    # BLOOM has no flag: its base model has the method.
    return any("alibi" in attribute for m in model.modules() for attribute in vars(type(m)))


def _no_layer_rotates(model: nn.Module) -> bool:
    """Tell whether the attention layers have a switch for their rotation, and all are off."""
    switches = [module.use_rope for module in model.modules() if hasattr(module, "use_rope")]
    return bool(switches) and not any(switches)


def _rotary_positions(model: nn.Module, text: PretrainedConfig) -> Positions | None:
    for _, module, buffers in rotary_modules(model, text):
        return Positions(
            kind=PositionKind.rotary,
            rotary_dims={t: 2 * module.get_buffer(b).shape[-1] for t, b in buffers.items()},
            rotary_class=type(module),
        )
    for name, module in model.named_modules():
        # Frequencies that do not come from the text's configuration cannot be changed through it.
        if _frequency_buffers(module) and not any(word in name.lower() for word in _NOT_TEXT):
            return Positions(kind=PositionKind.rotary)
    return None


def _refuse_encoder(model: nn.Module, text: PretrainedConfig) -> None:
    """Refuse BERT and its kin, which count as causal LMs and attend in both directions by default.

    They would see the token that they are to predict. Decoders say so once they are built.
    """
    built: Any = model.config
    if getattr(built, "is_decoder", None) is False and not built.is_encoder_decoder:
        raise ConfigError(
            f"model.name_or_path: this {text.model_type} model is an encoder, which sees what it "
            "should predict; choose a decoder (is_decoder=true in its configuration)."
        )


def _table_positions(model: nn.Module) -> Positions | None:
    for name, module in model.named_modules():
        own_name = name.rsplit(".", 1)[-1]
        if "pos" not in own_name and own_name != "wpe":
            continue
        if isinstance(module, nn.Embedding) and "Sinusoidal" not in type(module).__name__:
            # RoBERTa's descendants count from the row after the padding row.
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            offset = int(getattr(module, "offset", reserved))
            return Positions(
                kind=PositionKind.learned,
                table=name,
                table_length=module.num_embeddings - offset,
                table_offset=offset,
            )
        if "Sinusoidal" in type(module).__name__:
            return Positions(kind=PositionKind.sinusoidal, table=name)
    for name, buffer in model.named_buffers():
        own_name = name.rsplit(".", 1)[-1]
        if own_name == "embed_positions":
            return Positions(
                kind=PositionKind.rotary_table, table=name, table_length=buffer.shape[0]
            )
        if own_name == "pos_encoding":
            return Positions(kind=PositionKind.sinusoidal, table=name, table_length=buffer.shape[0])
    return None
