"""How transformers names, puts together and keeps the weights of checkpoints, from the inside."""

import copy
import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def kept_in_float32(model: "PreTrainedModel") -> tuple[str, ...]:
    """Return parts of parameter names that the family keeps in float32 whatever its dtype."""
    return tuple(model._keep_in_fp32_modules_strict or ())


@contextmanager
def keep_in_float32(names: Iterable[str]) -> Iterator[None]:
    """Let `from_pretrained` load the parameters `names` in float32, whatever the model's dtype.

    By the table that families use for their router biases, which takes patterns.
    """
    from transformers import PreTrainedModel

    kept = [f"^{re.escape(name)}$" for name in names]
    if not kept:
        yield
        return
    import torch

    original = PreTrainedModel._get_dtype_plan

    def with_kept(model: Any, dtype: Any) -> dict[str, Any]:
        # The first pattern that fits a name decides.
        return {**dict.fromkeys(kept, torch.float32), **original(model, dtype)}

    PreTrainedModel._get_dtype_plan = with_kept
    try:
        yield
    finally:
        PreTrainedModel._get_dtype_plan = original


def names_in_model(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, str]:
    """Return what a loaded model calls the tensors that its checkpoint's files call `names`.

    Of tensors that are put together from several, the name of the whole.
    """
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    mapping = getattr(model, "_weight_conversions", None) or []
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, own = model.base_model_prefix, model.state_dict()
    renamed = {}
    for name in names:
        found, _ = rename_source_key(name, renamings, converters, prefix, own)
        if found not in own and name in own:
            found, _ = rename_source_key(name, [], [], prefix, own)
        renamed[name] = str(found)
    return renamed


@dataclass
class Conversion:
    """Tensors of a checkpoint out of which transformers' loader makes others."""

    converter: Any
    """The loader's own one for them."""
    target: str
    """The model's name of what is made; the first, where it is several."""
    sources: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """The converter's pattern, and the name in the files, in the loader's order."""

    @property
    def operations(self) -> str:
        """Return what is done to them, in transformers' words."""
        return ", ".join(type(operation).__name__ for operation in self.converter.operations)

    def convert(
        self, tensors: "dict[str, torch.Tensor]", model: "PreTrainedModel"
    ) -> "dict[str, torch.Tensor]":
        """Return, by the model's names, what the loader would make of `tensors`.

        Those are by the names in the files. Raises what the converter raises.
        """
        for pattern, name in self.sources:
            self.converter.add_tensor(self.target, name, pattern, tensors[name])
        made = self.converter.convert(self.target, model=model, config=model.config)
        return {name: t[0] if isinstance(t, list) else t for name, t in made.items()}


@contextmanager
def noting_conversions() -> Iterator[list[Conversion]]:
    """Note what `from_pretrained` makes out of several tensors, or not as it is, while it loads."""
    from transformers.core_model_loading import WeightConverter, WeightTransform

    noted: list[Conversion] = []
    of_converter: dict[int, Conversion] = {}
    own = WeightTransform.add_tensor

    def note_and_add(self: Any, target: str, source: str, pattern: str, tensor: Any) -> None:
        if isinstance(self, WeightConverter):
            if id(self) not in of_converter:  # the loader has one for each target
                of_converter[id(self)] = Conversion(self, target)
                noted.append(of_converter[id(self)])
            of_converter[id(self)].sources.append((pattern, source))
        own(self, target, source, pattern, tensor)

    WeightTransform.add_tensor = note_and_add
    try:
        yield noted
    finally:
        WeightTransform.add_tensor = own


def revert_as(model: "PreTrainedModel", loaded: "PreTrainedModel") -> None:
    """Let `save_pretrained` write `model` under the names of what `loaded` was loaded from."""
    model._weight_conversions = getattr(loaded, "_weight_conversions", None)


@dataclass(frozen=True)
class SavedTogether:
    """Tensors of a model that `save_pretrained` writes from each other, and from nothing else."""

    sources: tuple[str, ...]
    """Their names in the model."""
    saved: "dict[str, torch.Tensor]"
    """What is written, by the names in the files; without numbers."""


def saved_together(
    model: "PreTrainedModel", outline: "dict[str, torch.Tensor]"
) -> list[SavedTogether] | None:
    """Return what `save_pretrained` makes of the tensors in `outline`, each group by itself.

    Those are a model's, by its names, without numbers (on torch's meta device); what the family
    does not save is left out. None where a group makes other than its own numbers, or cannot be
    told without them.
    """
    from transformers.core_model_loading import WeightTransform

    ignored = model._keys_to_ignore_on_save or ()
    kept = {name: tensor for name, tensor in outline.items() if name not in ignored}
    groups: dict[int, list[str]] = {}
    own = WeightTransform.add_tensor

    def note_and_add(self: Any, target: str, source: str, pattern: str, tensor: Any) -> None:
        groups.setdefault(id(self), []).append(source)  # there is one for each group, while it runs
        own(self, target, source, pattern, tensor)

    WeightTransform.add_tensor = note_and_add
    try:
        written = as_saved(model, kept)
        WeightTransform.add_tensor = own
        together = [tuple(group) for group in groups.values()] or [(name,) for name in kept]
        found = [
            SavedTogether(sources, as_saved(model, {name: kept[name] for name in sources}))
            for sources in together
        ]
    except Exception:  # whatever an operation says of tensors without numbers
        return None
    finally:
        WeightTransform.add_tensor = own
    for group in found:
        numbers = sum(kept[name].numel() for name in group.sources)
        if sum(tensor.numel() for tensor in group.saved.values()) != numbers:
            return None
    # Each is written once, and each comes of something.
    taken = sorted(name for group in found for name in group.sources)
    made = sorted(name for group in found for name in group.saved)
    return found if (taken, made) == (sorted(kept), sorted(written)) else None


def as_saved(
    model: "PreTrainedModel", tensors: "dict[str, torch.Tensor]"
) -> "dict[str, torch.Tensor]":
    """Return what `save_pretrained` writes of `tensors`, which are by the model's names."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, dict(tensors)))


def load_generation_config(
    model: "PreTrainedModel", location: str, arguments: dict[str, Any]
) -> None:
    """Give a model that was built without a path the generation configuration of a checkpoint.

    `arguments`: `revision` and `cache_dir`, as of `from_pretrained`.
    """
    adjust = getattr(model, "adjust_generation_fn", None)
    if adjust is None or not model.can_generate():
        return
    adjust(
        None,
        True,
        None,
        location,
        force_download=False,
        proxies=None,
        local_files_only=False,
        token=None,
        subfolder="",
        trust_remote_code=False,
        **{"cache_dir": None, "revision": None, **arguments},
    )


@contextmanager
def conversions_kept() -> Iterator[None]:
    """Keep what was done to names while a quantised checkpoint is loaded and decoded.

    Transformers 5.24 forgets all of it with the quantiser, prefixes of towers' names included;
    until save_pretrained writes a decoded checkpoint under its own names.
    """
    from transformers.quantizers.base import HfQuantizer

    own = HfQuantizer.remove_quantization_config

    def remove_but_names(self: HfQuantizer, model: "PreTrainedModel") -> None:
        conversions = getattr(model, "_weight_conversions", None)
        own(self, model)
        if conversions is not None:
            model._weight_conversions = conversions

    HfQuantizer.remove_quantization_config = remove_but_names
    try:
        yield
    finally:
        HfQuantizer.remove_quantization_config = own


def forget_quantization(model: "PreTrainedModel") -> None:
    """Let `save_pretrained` write the decoded weights under the names of a plain checkpoint.

    It reverts what was done to names and layouts when loading, and decoding was a part of that: the
    plain matrices would be saved under the names of quantised blocks. Needs what loading inside of
    `conversions_kept` has left.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    def key(entry: Any) -> tuple[object, ...]:
        sources = () if isinstance(entry, WeightConverter) else tuple(entry.source_patterns)
        return (*sources, None, *entry.target_patterns, entry.scope_prefix)

    # Of what was used when loading, as the same model without a quantiser would have it.
    plain = {key(entry): entry for entry in get_model_conversion_mapping(model)}
    used = [key(entry) for entry in getattr(model, "_weight_conversions", None) or ()]
    model._weight_conversions = [plain[one] for one in used if one in plain] or None


def without_quantization(config: "PretrainedConfig") -> "PretrainedConfig":
    """Return what builds plain layers: `config` itself, or a copy if its checkpoint is quantised.

    An attribute that is there and None fails in transformers' to_dict, so that it is taken away.
    """
    if not hasattr(config, "quantization_config"):
        return config
    plain = copy.deepcopy(config)
    del plain.quantization_config
    return plain


def forget_tensor_parallel(model: "PreTrainedModel") -> None:
    """Let neither the Trainer nor `save_pretrained` know that transformers cut the model.

    Until the Trainer supports tensor parallelism beside a sampler and checkpoints of one's own.
    """
    model._tp_size = None
    model._is_distributed_loading_by_transformers = False
    model.config.distributed_config = None


def gguf_arguments() -> dict[str, Any]:
    """Return what `from_pretrained(gguf_file=...)` needs to give plain tensors.

    Since transformers 5.23 it keeps the GGUF blocks, which can be neither trained nor saved, unless
    it is told to dequantise; until 5.23 is the oldest supported version.
    """
    import transformers

    if hasattr(transformers, "GgufConfig"):
        return {"quantization_config": transformers.GgufConfig(dequantize=True)}
    return {}


def sentencepiece_model_proto() -> Any:
    """Return the message class that reads the fields of a `tokenizer.model`.

    sentencepiece's own refuses a protobuf older than the one that it was made with (0.2.3: 7.36),
    which other packages do not allow yet; transformers has one that any protobuf takes. protobuf
    takes one of the two in a process: where there is one already, whoever brought it, it is read.
    """
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.runtime_version import VersionError

    pool = descriptor_pool.Default()
    name = "sentencepiece.ModelProto"
    try:
        descriptor = pool.FindMessageTypeByName(name)
    except KeyError:
        try:
            importlib.import_module("sentencepiece.sentencepiece_model_pb2")
        except VersionError:
            importlib.import_module("transformers.utils.sentencepiece_model_pb2_new")
        descriptor = pool.FindMessageTypeByName(name)
    return message_factory.GetMessageClass(descriptor)
