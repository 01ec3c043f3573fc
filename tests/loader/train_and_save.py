"""What a run does to a checkpoint, without the training: plan, load, fit, save."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import WeightsPlan, plan_weights
from sft_app.loader.model.embeddings import fit_model_to_tokenizer
from sft_app.loader.model.generation import GenerationPlan, plan_generation
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.save_pretrained import save_for_serving
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A model as it was saved, and the plans that it was loaded by."""

    directory: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: WeightsPlan
    generation: GenerationPlan
    rope: RopePlan


def save_again(
    source: Path,
    directory: Path,
    *,
    context_length: int = 64,
    rope: RopeConfig | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: Path | None = None,
) -> Saved:
    """Load `source` as training does, and save it to `directory` as a run does at its end."""
    model_config = ModelConfig(name_or_path=str(source))
    hf_config = load_pretrained_config(model_config)
    weights = plan_weights(model_config, hf_config)
    generation = plan_generation(model_config, hf_config)
    rope_plan = plan_rope(hf_config, context_length, rope or RopeConfig())
    loaded, tokenizer_plan = load_tokenizer(
        TokenizerConfig(
            model_max_length=context_length, name_or_path=str(tokenizer) if tokenizer else None
        ),
        model_config,
        hf_config,
    )
    model = load_model(model_config, hf_config, rope_plan)
    fit_model_to_tokenizer(model, loaded, tokenizer_plan)
    save_for_serving(
        model,
        loaded,
        rope_plan,
        tokenizer_plan,
        directory,
        weights_plan=weights,
        dtype=dtype or weights.dtype,
    )
    return Saved(
        directory=directory,
        model=model,
        tokenizer=loaded,
        weights=weights,
        generation=generation,
        rope=rope_plan,
    )
