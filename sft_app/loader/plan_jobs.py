"""Makes the plans of many configurations, without weights: `python -m ...plan_jobs FOLDER`.

A process of its own, started by the one that composes a sweep and imports neither torch nor
transformers. For each N.yaml in the folder it writes N.json (the plan in brief) or N.error.
"""

import dataclasses
import json
import sys
from pathlib import Path

from transformers import PretrainedConfig, logging

from sft_app.common.errors import ConfigError
from sft_app.common.processes import die_with_parent
from sft_app.config.schema.app import AppConfig, load_config
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.checkpoint.weights_plan import plan_weights
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer

WHAT_IS_APPLIED = (
    "context_length", "method", "factor", "changed", "rope_parameters", "max_position_embeddings",
    "other_updates", "table",
)  # fmt: skip
"""Of a RoPE plan: what the model becomes. Jobs that agree in it are one run."""


def main(folder: Path) -> None:
    """Plan every N.yaml of `folder`, each into a file beside it."""
    checked = Checked()
    for path in sorted(folder.glob("*.yaml")):
        try:
            plan = checked.plan(load_config(path))
            path.with_suffix(".json").write_text(json.dumps(plan), encoding="utf-8")
        except ConfigError as error:
            path.with_suffix(".error").write_text(str(error), encoding="utf-8")


class Checked:
    """Reads each model's configuration and each tokenizer once, however many jobs share them."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self.models: dict[str, PretrainedConfig] = {}
        self.tokenizers: set[str] = set()

    def plan(self, config: AppConfig) -> dict[str, str]:
        """Return what is applied to the model, as one text.

        Raises ConfigError when the job cannot have its tokenizer or its context length.
        """
        model_key = repr(config.model)
        if model_key not in self.models:
            hf_config = load_pretrained_config(config.model)
            plan_weights(config.model, hf_config)
            self.models[model_key] = hf_config
        hf_config = self.models[model_key]
        tokenizer_key = model_key + repr(dataclasses.replace(config.tokenizer, model_max_length=0))
        if tokenizer_key not in self.tokenizers:
            load_tokenizer(config.tokenizer, config.model, hf_config)
            self.tokenizers.add(tokenizer_key)
        plan = plan_rope(
            hf_config,
            config.target_length,
            config.rope,
            original_context_length=config.model.original_context_length,
        )
        applied = {key: value for key, value in plan.as_dict().items() if key in WHAT_IS_APPLIED}
        return {"applied": json.dumps(applied, sort_keys=True, default=str)}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sft_app.loader.plan_jobs FOLDER")
    die_with_parent()
    logging.set_verbosity_error()
    main(Path(sys.argv[1]))
