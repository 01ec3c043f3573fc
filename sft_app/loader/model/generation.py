"""The generation configuration: consistent with the model, and accepted when it is saved."""

import logging

from transformers import GenerationConfig, PreTrainedModel

logger = logging.getLogger(__name__)


def make_saveable(model: PreTrainedModel) -> None:
    """Mend a generation configuration that transformers would refuse to save after training.

    Some published ones set a temperature and leave sampling off, which `save_pretrained` takes for
    a mistake: the training would be done and the model not saved.
    """
    generation = model.generation_config
    if generation is None or _is_valid(generation):
        return
    generation.do_sample = True
    if _is_valid(generation):
        logger.warning("generation config: do_sample set to true, because a temperature is set")
        return
    model.generation_config = GenerationConfig.from_model_config(model.config)
    logger.warning("generation config: replaced by the default, because the model's is invalid")


def _is_valid(generation: GenerationConfig) -> bool:
    try:
        generation.validate(strict=True)
    except ValueError:
        return False
    return True
