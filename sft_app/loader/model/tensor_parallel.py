"""Tensor parallelism: the matrices of a model sharded across ranks, by transformers when it loads.

Each family of transformers that has a plan says which matrices are sharded by rows and which by
columns, and what the ranks exchange between them. After loading, the model is told that it is a
plain one: what belongs to training (batches, reduction, checkpoints, saving) this application does
itself for whatever is sharded, on CPUs too, which accelerate's tensor parallelism does not know.
"""

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.compat import loading_and_saving, model_internals
from sft_app.loader.model.embeddings import changes_embeddings
from sft_app.loader.rope.rope_plan import RopePlan
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan

KEY = "trainer.tensor_parallel_size"


def check_tensor_parallel(
    config: PretrainedConfig, rope: RopePlan, tokenizer: TokenizerPlan, size: int
) -> None:
    """Raise ConfigError, before weights are loaded, for models not known to train when sharded."""
    if not model_internals.trainer_takes_sharded_models():
        raise ConfigError(f"{KEY}={size} needs transformers 5.23 or newer: upgrade it.")
    obstacle = _obstacle(config, rope, tokenizer, size)
    if obstacle is not None:
        raise ConfigError(
            f"{KEY}={size}: {obstacle}. Use {KEY}=1; trainer.parallelism=fsdp shards the weights "
            "of every model."
        )


def _obstacle(
    config: PretrainedConfig, rope: RopePlan, tokenizer: TokenizerPlan, size: int
) -> str | None:
    text = config.get_text_config(decoder=True)
    if not getattr(text, "base_model_tp_plan", None):
        return f"transformers has no tensor-parallel plan for {config.model_type} models"
    if rope.method == "extend_positions":
        return "its position table would have to be extended after it was sharded"
    if changes_embeddings(tokenizer):
        return "rows of new tokens would have to be added after the embedding was sharded"
    for name in ("num_attention_heads", "num_key_value_heads"):
        count = getattr(text, name, size)
        if not isinstance(count, int) or count % size:
            return f"{name} is {count}, and must be a multiple of it"
    return None


def tensor_parallel_arguments(size: int) -> dict[str, Any]:
    """Return what makes `from_pretrained` read this rank's shards of the checkpoint."""
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=size)}


def disown_tensor_parallel(model: PreTrainedModel) -> None:
    """Let neither the Trainer nor `save_pretrained` take a sharded model into their own hands."""
    loading_and_saving.forget_tensor_parallel(model)
