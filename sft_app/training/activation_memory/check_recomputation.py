"""Whether a family can recompute activations: transformers tells it of the class."""

from transformers import PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.loader.architecture.auto_class import model_class


def can_recompute(pretrained: PretrainedConfig) -> bool:
    """Tell whether layers of the family can be checkpointed; code of a checkpoint's own may be."""
    family = model_class(pretrained)
    return family is None or bool(family.supports_gradient_checkpointing)


def check_recomputation(pretrained: PretrainedConfig) -> None:
    """Raise ConfigError for a family that cannot, before its weights are loaded."""
    if not can_recompute(pretrained):
        raise ConfigError(
            f"trainer.gradient_checkpointing=true: the code of {pretrained.model_type} in "
            "transformers cannot recompute its layers; leave it out, or save memory with "
            "adapter=lora, trainer.parallelism=fsdp or a shorter context_length."
        )
