"""--help: the groups with their options, and every setting with its value.

Hydra's own help reads every option of every group several times over, which takes seconds.
"""

from collections.abc import Sequence

import hydra
from omegaconf import OmegaConf

from sft_app.config.overrides import conf_dir, group_options
from sft_app.config.schema.app import register_schema

HELP = """\
sft-train fine-tunes a causal language model on chat data, at a context length of your choice.

  sft-train model.name_or_path=/some/dir data.train=/some/chat.json context_length=8192
  sft-train experiment=demo                      the embedded model and data, about 5 minutes
  sft-train --multirun context_length=4096,8192 rope=linear,yarn
  sft-plan  with the same words: what would be done, without loading weights

== Groups (choose with group=option) ==

{groups}

== Settings (change with key=value) ==

{settings}
--cfg job, --info and --multirun are Hydra's, and so is the rest: --hydra-help"""


def help_text(overrides: Sequence[str]) -> str:
    """Return the help, with the settings as these overrides make them.

    Raises Hydra's own exceptions when they do not compose.
    """
    register_schema()
    with hydra.initialize_config_module("sft_app.conf", version_base="1.3"):
        config = hydra.compose("config", overrides=list(overrides))
    folders = sorted(f.relative_to(conf_dir()) for f in conf_dir().rglob("*") if f.is_dir())
    groups = {str(folder): group_options(str(folder)) for folder in folders}
    lines = [f"{name}: {', '.join(options)}" for name, options in groups.items() if options]
    return HELP.format(groups="\n".join(lines), settings=OmegaConf.to_yaml(config))
