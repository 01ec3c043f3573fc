"""Every private name of the libraries below that this application leans on.

Each entry says what it is for and when it can go; `PRIVATE_NAMES` is what a test looks up, so that
an upgrade that takes one away fails there, with a sentence, and not in a user's run.
"""

import importlib
import inspect
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


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
        "threading._shutdown",
        "a worker would leave before threads of trackers have sent what they hold",
        "Python can end a process without its native end, as multiprocessing does with forks",
    ),
    PrivateName(
        "atexit._run_exitfuncs",
        "a worker would leave without what W&B and MLflow do in the end",
        "as for threading._shutdown",
    ),
    PrivateName(
        "transformers.utils.sentencepiece_model_pb2_new",
        "with a protobuf older than sentencepiece's own, a tokenizer.model cannot be read",
        "sentencepiece reads with any protobuf, or none",
    ),
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
    """Import and return what `name` stands for; None for attributes of instances, and for modules.

    A module at the end of a path is only looked for: transformers' messages of sentencepiece, once
    imported, would shut sentencepiece's own out of the process.

    Raises AttributeError or ImportError when it is gone.
    """

    module_name, *attributes = name.path.split(".")
    found: Any = importlib.import_module(module_name)
    for attribute in attributes:
        module_name = f"{module_name}.{attribute}"
        if not hasattr(found, attribute):
            if _sets_on_instances(found, attribute):
                return None
            if not inspect.ismodule(found) or find_spec(module_name) is None:
                raise AttributeError(f"{name.path} has no {attribute}")
            if module_name == name.path:
                return None
            found = importlib.import_module(module_name)
            continue
        found = getattr(found, attribute)
    return found


def _sets_on_instances(found: Any, attribute: str) -> bool:
    return inspect.isclass(found) and f"self.{attribute}" in inspect.getsource(found)
