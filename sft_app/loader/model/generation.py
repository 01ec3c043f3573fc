"""The generation configuration: all that was published survives, and nothing stops the saving.

Some published ones contradict themselves (a temperature while sampling is off), which
`save_pretrained` takes for a mistake: the training would be done and the model not saved. What
contradicts is dropped alone, and said, before anything is trained.
"""

import logging
import re
import tempfile
from dataclasses import dataclass

from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.loader.checkpoint.locate import find_checkpoint

logger = logging.getLogger(__name__)

_FIELD = re.compile(r"^- `(\w+)`:", re.MULTILINE)
"""How transformers begins each line about a field that it finds wrong."""


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """What is saved for whoever generates with the model."""

    settings: dict[str, object]
    """Those that differ from the library's defaults, special ids left out."""
    changes: tuple[str, ...]
    """What had to be changed, in words."""

    def __str__(self) -> str:
        """Return the lines that sft-plan and the log show; none where there is nothing to say."""
        lines = []
        if self.settings:
            kept = ", ".join(f"{key} {value}" for key, value in self.settings.items())
            lines.append(("generation", f"saved as published: {kept}"))
        lines += [("WARNING", f"generation_config.json: {change}") for change in self.changes]
        return "\n".join(f"{name:<16}{value}" for name, value in lines)


def plan_generation(model_config: ModelConfig, hf_config: PretrainedConfig) -> GenerationPlan:
    """Read generation_config.json, and try whether it and config.json can be saved.

    Raises ConfigError when they cannot.
    """
    checkpoint = find_checkpoint(model_config)
    published = True
    try:
        generation = GenerationConfig.from_pretrained(checkpoint.location, **checkpoint.arguments())
    except OSError as error:
        if "valid JSON" in str(error):
            raise _refusal(model_config, error) from error
        generation = GenerationConfig.from_model_config(hf_config)  # there is no such file
        published = False
    except Exception as error:
        raise _refusal(model_config, error) from error
    changes = tuple(mend(generation))
    try:
        with tempfile.TemporaryDirectory() as directory:
            generation.save_pretrained(directory)
            hf_config.save_pretrained(directory)
    except Exception as error:
        raise _refusal(model_config, error) from error
    stated = generation.to_diff_dict() if published else {}
    settings = {
        key: value
        for key, value in stated.items()
        if not key.endswith("token_id") and not key.startswith("_") and key not in _UNTOLD
    }
    return GenerationPlan(settings=settings, changes=changes)


_UNTOLD = ("transformers_version", "use_cache")


def make_saveable(model: PreTrainedModel) -> None:
    """Mend the loaded model's generation configuration, so that it can be saved after training."""
    if model.generation_config is None:
        return
    model.generation_config.use_cache = True
    for change in mend(model.generation_config):
        logger.warning("generation config: %s", change)


def mend(generation: GenerationConfig) -> list[str]:
    """Change as little as makes `generation` valid, in place; say what was changed."""
    changes: list[str] = []
    complaint = _complaint(generation)
    if complaint and not generation.do_sample:
        generation.do_sample = True
        remaining = _complaint(generation)
        if len(_FIELD.findall(remaining)) < len(_FIELD.findall(complaint)):
            meant = ", ".join(f for f in _FIELD.findall(complaint) if f not in remaining)
            changes.append(f"do_sample set to true, because {meant} mean sampling")
            complaint = remaining
        else:
            generation.do_sample = False
    defaults = GenerationConfig()
    while complaint:
        fields = [f for f in _FIELD.findall(complaint) if hasattr(generation, f)]
        wrong = [f for f in fields if getattr(generation, f) != getattr(defaults, f, None)]
        if not wrong:  # no field is named: nothing smaller than all of it can be given up
            changes.append(f"replaced by the defaults ({' '.join(complaint.split())[:200]})")
            generation.update(**defaults.to_dict())
            break
        for field in wrong:
            changes.append(f"{field}={getattr(generation, field)!r} dropped, which contradicts")
            setattr(generation, field, getattr(defaults, field, None))
        complaint = _complaint(generation)
    return changes


def _complaint(generation: GenerationConfig) -> str:
    """Return what transformers would refuse when saving; empty if nothing."""
    try:
        generation.validate(strict=True)
    except ValueError as error:
        return str(error)
    return ""


def _refusal(model_config: ModelConfig, error: Exception) -> ConfigError:
    what = " ".join(str(error).split())[:300]
    return ConfigError(
        f"model.name_or_path: the generation_config.json of {model_config.name_or_path!r} could "
        f"not be saved again after training ({type(error).__name__}: {what}); mend that file, or "
        "take it away."
    )
