"""Every private name and version test of the libraries below, in one place.

Each entry says what it is for and when it can go; `PRIVATE_NAMES` is what a test looks up, so that
an upgrade that takes one away fails there, with a sentence, and not in a user's run. Libraries are
imported inside the functions: the process that composes the configuration imports this module too.
"""

import copy
import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class PrivateName:
    """A name without a promise of stability that this application reads, calls or overrides."""

    path: str
    """Where it is: module and attributes, with dots."""
    breaks: str
    """What no longer works, or is silently wrong, when it is gone."""
    until: str
    """The condition under which the application can do without it."""


PRIVATE_NAMES = (
    PrivateName(
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper.split_arguments",
        "the jobs of a sweep cannot be listed before the first one starts",
        "Hydra has a public way to expand a sweep (hydra #3328)",
    ),
    PrivateName(
        "hydra.core.global_hydra.GlobalHydra.config_loader",
        "the jobs of a sweep cannot be composed before the first one starts",
        "hydra.compose takes a sweep's master configuration",
    ),
    PrivateName(
        "hydra._internal.utils.run_and_report",
        "what is wrong in a configuration ends in Hydra's own several lines, and exit code 1",
        "hydra.main can hand exceptions to its caller",
    ),
    PrivateName(
        "transformers.masking_utils.find_packed_sequence_indices",
        "documents whose positions skip some fall into two, which is found before training",
        "transformers takes the bounds of packed documents in the place of positions",
    ),
    PrivateName(
        "datasets.Dataset._fingerprint",
        "a hub dataset that has changed would be taken from the token cache",
        "datasets names a content digest in its public interface",
    ),
    PrivateName(
        "transformers.PreTrainedModel._can_set_attn_implementation",
        "whether a family accepts an attention of ours is not known before its weights are loaded",
        "transformers makes it public (it is documented for custom attention)",
    ),
    PrivateName(
        "transformers.PreTrainedModel._supports_sdpa",
        "families without SDPA would be loaded with it, and fail",
        "from_pretrained falls back by itself and says so",
    ),
    PrivateName(
        "transformers.PreTrainedModel._no_split_modules",
        "FSDP and torch_compile do not find the decoder layers",
        "transformers names a model's layers in public",
    ),
    PrivateName(
        "transformers.PreTrainedModel._keep_in_fp32_modules_strict",
        "router biases and the like would be saved in 16 bits",
        "save_pretrained keeps the dtypes of the source by itself",
    ),
    PrivateName(
        "transformers.PreTrainedModel._get_dtype_plan",
        "float32 router weights among bfloat16 would be rounded when they are loaded",
        "from_pretrained can be told the dtype of single tensors",
    ),
    PrivateName(
        "transformers.PreTrainedModel._keys_to_ignore_on_load_unexpected",
        "weights that a family leaves out (MTP layers, towers) would vanish without a word",
        "from_pretrained reports what a family leaves out by design",
    ),
    PrivateName(
        "transformers.GenerationMixin.adjust_generation_fn",
        "a model whose weights each rank reads in slices would lose its generation configuration",
        "from_pretrained takes a state_dict beside a path",
    ),
    PrivateName(
        "transformers.conversion_mapping.get_model_conversion_mapping",
        "decoded weights would be saved under the names of quantised blocks",
        "save_pretrained leaves the quantiser's part of the names out by itself",
    ),
    PrivateName(
        "transformers.core_model_loading.revert_weight_conversion",
        "sharded models would be saved under names that others do not read",
        "save_pretrained takes a function that gathers one tensor after the other",
    ),
    PrivateName(
        "transformers.PreTrainedModel._keys_to_ignore_on_save",
        "sharded models would be saved with tensors that a family leaves out",
        "as for revert_weight_conversion",
    ),
    PrivateName(
        "transformers.core_model_loading.rename_source_key",
        "tensors with a dtype of their own (float32 router biases) would be saved in 16 bits",
        "save_pretrained keeps the dtypes of the source by itself",
    ),
    PrivateName(
        "transformers.core_model_loading.WeightTransform.add_tensor",
        "which tensors of the files are put together to which of the model's is not known",
        "transformers says before loading what its converters will make of which tensors",
    ),
    PrivateName(
        "transformers.core_model_loading.WeightConverter.convert",
        "how tensors of the files are put together cannot be tried on small ones",
        "as for WeightTransform.add_tensor",
    ),
    PrivateName(
        "transformers.modeling_layers.GradientCheckpointingLayer",
        "with torch_compile, checkpointed layers would be compiled around their recomputation",
        "the oldest supported transformers is 5.23",
    ),
    PrivateName(
        "transformers.Trainer._get_train_sampler",
        "unpacked examples would not come in batches of similar length",
        "train_sampling_strategy takes a sampler",
    ),
    PrivateName(
        "transformers.Trainer._save_checkpoint",
        "checkpoints would be written straight into their final folder, half of them after a kill",
        "the Trainer writes checkpoints aside and renames them",
    ),
    PrivateName(
        "transformers.Trainer._clip_grad_norm",
        "gradients would be clipped before the guard has seen which are not finite",
        "the Trainer has a public hook between backward and clipping",
    ),
    PrivateName(
        "transformers.Trainer._get_grad_norm",
        "without clipping, a gradient that is not finite would reach the optimizer",
        "as for _clip_grad_norm",
    ),
    PrivateName(
        "transformers.Trainer._get_output_dir",
        "checkpoints could not be written aside",
        "as for _save_checkpoint",
    ),
    PrivateName(
        "transformers.Trainer._save_optimizer_and_scheduler",
        "optimizer state of sharded models would not be saved",
        "the Trainer saves models that fully_shard was applied to by others",
    ),
    PrivateName(
        "transformers.Trainer._load_optimizer_and_scheduler",
        "optimizer state of sharded models would not be read",
        "as for _save_optimizer_and_scheduler",
    ),
    PrivateName(
        "transformers.Trainer._load_from_checkpoint",
        "weights of sharded models would not be read",
        "as for _save_optimizer_and_scheduler",
    ),
    PrivateName(
        "transformers.PretrainedConfig._attn_implementation",
        "each mask of packed rows costs a wait for the device, for documents that are known",
        "transformers names a model's attention in public",
    ),
    PrivateName(
        "transformers.masking_utils.find_packed_sequence_indices",
        "each mask of packed rows costs a wait for the device, for documents that are known",
        "transformers' masks can be told the documents of packed rows",
    ),
    PrivateName(
        "torch._grouped_mm",
        "the memory estimate of a mixture of experts falls back to a rule of thumb",
        "torch.nn.functional.grouped_mm can be seen by a mode, or runs on fake tensors in float32",
    ),
    PrivateName(
        "transformers.integrations.moe._grouped_mm",
        "stacked experts are multiplied in the parameters' dtype under mixed precision: far slower",
        "torch's grouped_mm follows autocast (pytorch/pytorch#174763)",
    ),
    PrivateName(
        "torch._subclasses.fake_tensor.FakeTensorMode",
        "the memory estimate falls back to a rule of thumb for activations",
        "torch makes fake tensors public",
    ),
    PrivateName(
        "torch._dynamo.config.optimize_ddp",
        "compiled layers would be cut in two at DDP's buckets",
        "torch.compile takes it as an option",
    ),
    PrivateName(
        "accelerate.data_loader.BatchSamplerShard",
        "processes that share a row would read different batches",
        "accelerate's prepare takes the data-parallel rank and size",
    ),
)


def find_private_name(name: PrivateName) -> Any:
    """Import and return what `name` stands for; None where it is an attribute of instances.

    Raises AttributeError or ImportError when it is gone.
    """
    import importlib

    module_name, *attributes = name.path.split(".")
    found: Any = importlib.import_module(module_name)
    for attribute in attributes:
        module_name = f"{module_name}.{attribute}"
        if not hasattr(found, attribute):
            if _sets_on_instances(found, attribute):
                return None
            try:
                found = importlib.import_module(module_name)
                continue
            except ModuleNotFoundError:
                raise AttributeError(f"{name.path} has no {attribute}") from None
        found = getattr(found, attribute)
    return found


def _sets_on_instances(found: Any, attribute: str) -> bool:
    return inspect.isclass(found) and f"self.{attribute}" in inspect.getsource(found)


# -- Hydra ----------------------------------------------------------------------------------------

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""The `_target_` of Hydra's default sweeper, whose jobs can be listed in advance."""


def split_sweep(overrides: list[Any]) -> list[list[str]]:
    """Return the overrides of each job of a sweep, in the order in which Hydra starts them.

    `overrides` are parsed ones (hydra.core.override_parser.types.Override).
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


@contextmanager
def hydra_exceptions_pass() -> Iterator[None]:
    """Let what is raised below @hydra.main reach its caller; Hydra prints it and exits with 1."""
    from hydra._internal import utils

    before = utils.run_and_report
    utils.run_and_report = lambda func: func()
    try:
        yield
    finally:
        utils.run_and_report = before


@contextmanager
def writable_overrides(master: Any) -> Iterator[Any]:
    """Give the overrides from which the jobs of a sweep are composed, to be added to.

    From Hydra 1.4 on they are read-only one by one, not only with the configuration around them;
    until 1.4 is the oldest supported version.
    """
    from omegaconf import read_write

    overrides = master.hydra.overrides
    with read_write(master), read_write(overrides), ExitStack() as stack:
        for words in overrides.values():
            stack.enter_context(read_write(words))
        yield overrides


def register_resolver(name: str, function: Any) -> None:
    """Let configurations interpolate `${name:...}`; OmegaConf 2.4 has another word for it."""
    from omegaconf import OmegaConf

    register: Any = getattr(OmegaConf, "register_resolver", None)
    if register is not None and "replace" in inspect.signature(register).parameters:
        register(name, function, replace=True)
    else:  # before 2.4, where that name is an older function's
        OmegaConf.register_new_resolver(name, function, replace=True)


def sweep_config_loader() -> Any:
    """Return the loader that composes the jobs of the sweep that Hydra is starting."""
    from hydra.core.global_hydra import GlobalHydra

    return GlobalHydra.instance().config_loader()


# -- datasets -------------------------------------------------------------------------------------


def dataset_fingerprint(dataset: Any) -> str:
    """Return what changes with the content of a hub dataset, as far as `datasets` can tell."""
    return str(dataset._fingerprint)


# -- transformers: models -------------------------------------------------------------------------


def can_set_attention(model_class: type["PreTrainedModel"]) -> bool:
    """Tell whether the family takes its attention from transformers' AttentionInterface."""
    return bool(model_class._can_set_attn_implementation())


def supports_sdpa(model_class: type["PreTrainedModel"]) -> bool:
    """Tell whether the family can attend by F.scaled_dot_product_attention."""
    return bool(model_class._supports_sdpa)


def decoder_layer_classes(model: "PreTrainedModel") -> set[str]:
    """Return the class names of the model's layers; empty where the family does not name them."""
    return set(model._no_split_modules or ())


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


def ignored_when_loading(model_class: type["PreTrainedModel"], name: str) -> bool:
    """Tell whether the family leaves the weight `name` out by design, without reporting it."""
    patterns = model_class._keys_to_ignore_on_load_unexpected or ()
    return any(re.search(pattern, name) for pattern in patterns)


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


def names_when_saved(model: "PreTrainedModel", names: Iterable[str]) -> dict[str, str] | None:
    """Return the model's own names by those that `save_pretrained` writes.

    None where it would write other tensors than the model has.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, revert_weight_conversion

    used = getattr(model, "_weight_conversions", None)
    if used is None:
        used = get_model_conversion_mapping(model, add_legacy=False)
    if any(isinstance(entry, WeightConverter) for entry in used):
        return None
    kept = [n for n in names if n not in (model._keys_to_ignore_on_save or ())]
    stand_ins = {name: torch.empty(0, device="meta") for name in kept}
    own_names = {id(tensor): name for name, tensor in stand_ins.items()}
    reverted = revert_weight_conversion(model, dict(stand_ins))
    found = {name: own_names.get(id(tensor)) for name, tensor in reverted.items()}
    if set(found.values()) != set(kept):
        return None
    return {name: own for name, own in found.items() if own is not None}


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


# -- transformers: the Trainer --------------------------------------------------------------------


@functools.cache
def trainer_takes_sharded_models() -> bool:
    """Tell whether the Trainer leaves a model alone that others have sharded (5.23 and newer)."""
    from transformers import Trainer

    return hasattr(Trainer, "_sync_replicated_trainable_parameters")


def checkpointing_prefix() -> str:
    """Return how TrainingArguments calls checkpointing: `activation` since 5.23, or `gradient`.

    The new version warns of the old name; until 5.23 is the oldest supported version.
    """
    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    return "activation" if "activation_checkpointing" in names else "gradient"


@functools.cache
def checkpoints_around_forward() -> bool:
    """Tell whether transformers recomputes a layer around its forward (before 5.23) or inside."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return "__call__" in vars(GradientCheckpointingLayer)


def recomputation(layer: "nn.Module") -> Any:
    """Return the function by which a decoder layer is recomputed in backward; None without one."""
    return getattr(layer, "_gradient_checkpointing_func", None)


def set_recomputation(layer: Any, function: Any) -> None:
    """Replace the function by which a decoder layer is recomputed in backward."""
    layer._gradient_checkpointing_func = function


def attention_of(config: "PretrainedConfig") -> str | None:
    """Return the name of the attention that a loaded model of this configuration runs with."""
    name: str | None = config._attn_implementation
    return name


@contextmanager
def packing_is_told_to_masks() -> Iterator[None]:
    """Keep transformers from looking for packed documents when it makes masks.

    It asks the device for them, once for each mask. For models all of whose masks are made by who
    knows the documents.
    """
    from transformers import masking_utils

    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


# -- torch ----------------------------------------------------------------------------------------


@contextmanager
def no_ddp_buckets_in_graphs() -> Iterator[None]:
    """Compile layers whole: torch would cut graphs at DDP's buckets; put back what was set."""
    import torch

    before = torch._dynamo.config.optimize_ddp
    torch._dynamo.config.optimize_ddp = False
    try:
        yield
    finally:
        torch._dynamo.config.optimize_ddp = before


def storage_key(tensor: Any) -> int:
    """Return what two tensors have in common if they share memory, also where there is none."""
    return int(tensor.untyped_storage()._cdata)


def read_documents_by_restarts() -> None:
    """Have transformers begin a packed document where positions are 0, and not where they jump.

    For the whole process, and the same wherever positions are those of packed documents; rows whose
    positions skip some (data.position_skipping=pose) fall apart otherwise.
    """
    from transformers import masking_utils

    masking_utils.find_packed_sequence_indices = _documents_by_restarts


def _documents_by_restarts(position_ids: "torch.Tensor") -> "torch.Tensor | None":
    documents = (position_ids == 0).cumsum(-1)
    return None if bool((documents == documents[:, :1]).all()) else documents


def grouped_product() -> Any:
    """Return the function that multiplies rows by the matrices of their experts."""
    import torch

    return torch._grouped_mm


def experts_follow_autocast() -> None:
    """Have transformers multiply stacked experts in autocast's dtype, as all other matrices are.

    For the whole process; without autocast nothing changes. PyTorch's kernel does not know
    autocast, and weights in float32 would be multiplied in float32.
    """
    import torch
    from transformers.integrations import moe

    own: Any = moe._grouped_mm
    if hasattr(own, "__wrapped__"):
        return

    @functools.wraps(own)
    def in_autocast(input: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
        kind = weight.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            input, weight = input.to(dtype), weight.to(dtype)
        found: torch.Tensor = own(input, weight, offs=offs)
        return found

    moe._grouped_mm = in_autocast
