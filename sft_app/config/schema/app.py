"""The one typed configuration that everything else is given."""

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from sft_app.config.job_folders import register_resolvers
from sft_app.config.schema.adapter import AdapterConfig
from sft_app.config.schema.data import DataConfig
from sft_app.config.schema.evaluation import EvaluationConfig
from sft_app.config.schema.from_environment import mark, plain, references
from sft_app.config.schema.launch import LaunchConfig
from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.config.schema.planned_hardware import PlanConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.config.schema.run import RunConfig
from sft_app.config.schema.sweep import SweepConfig
from sft_app.config.schema.trainer import TrainerConfig


@dataclass(kw_only=True)
class AppConfig:
    """Hold every setting of a run: two knobs, and the groups."""

    # Groups are MISSING rather than default-constructed, because OmegaConf would run a nested
    # `__post_init__` before the values are resolved.
    context_length: int = MISSING
    """Length of training rows, in tokens: the ONE knob. tokenizer.model_max_length, the RoPE
    target, the packing capacity and the evaluation lengths follow from it."""
    seed: int = MISSING
    """All randomness of training: initial values, order of the data, dropout."""
    model: ModelConfig = MISSING
    """The checkpoint that training starts from."""
    tokenizer: TokenizerConfig = MISSING
    """How text becomes tokens, and conversations become text."""
    rope: RopeConfig = MISSING
    """How positions are extended when `context_length` exceeds the model's own context."""
    data: DataConfig = MISSING
    """Which conversations are trained on, and how they become batches."""
    trainer: TrainerConfig = MISSING
    """Training itself, in the words of transformers.TrainingArguments."""
    adapter: AdapterConfig = MISSING
    """All parameters, or a few beside them (LoRA, QLoRA)."""
    launch: LaunchConfig = MISSING
    """Processes and devices of one job."""
    evaluation: EvaluationConfig = MISSING
    """What is measured before and after training."""
    sweep: SweepConfig = MISSING
    """What the jobs of `sft-train --multirun` share."""
    run: RunConfig = field(default_factory=RunConfig)
    """The name of a run that can be continued."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """GPUs that sft-plan reckons with."""

    @property
    def target_length(self) -> int:
        """Return the tokens for which positions are extended: beyond the rows with PoSE only."""
        return self.data.position_target or self.context_length


# On import, because the job of a Ray worker unpickles a configuration and composes none.
register_resolvers()


def register_schema() -> None:
    """Make the schema known to Hydra as `base_config`, the first entry of config.yaml's defaults.

    One root schema type-checks every group file; a schema per group would show up as an option of
    that group in `rope=glob(*)`.
    """
    ConfigStore.instance().store(name="base_config", node=AppConfig)


def to_typed(config: DictConfig) -> AppConfig:
    """Resolve every interpolation and return plain dataclasses.

    Raises omegaconf's MissingMandatoryValue when a mandatory value was not given.
    """
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, AppConfig)
    mark(typed, OmegaConf.to_container(config, resolve=False))
    return typed


def save_config(config: AppConfig, path: Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back unchanged.

    What was taken from the environment is written as the reference to it, and read there again.
    """
    written = OmegaConf.structured(plain(config))
    for key, reference in references(config).items():
        OmegaConf.update(written, key, reference)
    path.write_text(OmegaConf.to_yaml(written), encoding="utf-8")


def load_config(path: Path) -> AppConfig:
    """Read a resolved configuration (`config.yaml` of a run directory)."""
    schema = OmegaConf.structured(AppConfig)
    return to_typed(OmegaConf.merge(schema, OmegaConf.load(path)))  # type: ignore[arg-type]
