"""What the tiny model is made from, and whether a folder holds one that was made from it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from omegaconf import OmegaConf

RECIPES = Path(__file__).parent
DEFAULT = RECIPES / "tiny_llama.yaml"
MADE_FROM = "pretrain.json"


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """The fields of tiny_llama.yaml and needle_llama.yaml, which explain each."""

    seed: int
    context_length: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_steps: int
    batch_size: int
    learning_rate: float
    source_megabytes: float
    pretrain_conversations: int
    train_conversations: int
    eval_conversations: int
    # What follows came later, with needle_llama.yaml.
    rope_theta: float = 10000.0
    digit_tokens: bool = False
    retrieval_share: float = 0.0
    short_length: int = 1
    short_steps: int = 0
    frame_weight: float = 1.0
    second_round_steps: int = 0
    second_round_learning_rate: float = 0.0
    train_retrievals: int = 0
    train_retrieval_lengths: list[int] = field(default_factory=list)
    longest_question: int | None = None

    def second_round(self) -> "PretrainSettings | None":
        """Return what a second round of training is made with, on other rows; None: there is none.

        A learning rate that rises again gets a small model off a plateau that the first round's
        falling one leaves it on.
        """
        if not self.second_round_steps:
            return None
        return replace(
            self,
            seed=self.seed + 1,
            num_steps=self.second_round_steps,
            learning_rate=self.second_round_learning_rate,
            short_steps=0,
        )

    def digest(self) -> str:
        """Return the SHA-256 of the settings: equal settings make the same model.

        A setting that came later and says nothing is left out: it makes no other model.
        """
        settings = asdict(self)
        if self.longest_question is None:
            del settings["longest_question"]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def recipes() -> list[str]:
    """List the names of the settings that come with the application."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_settings(path: Path) -> PretrainSettings:
    """Read the settings; OmegaConf raises for a key or a type that the schema does not have."""
    schema = OmegaConf.structured(PretrainSettings)
    settings = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.load(path)))
    assert isinstance(settings, PretrainSettings)
    return settings


def is_made(folder: Path, settings: PretrainSettings) -> bool:
    """Tell whether `folder` holds a whole model that was made from `settings`."""
    try:
        record = json.loads((folder / MADE_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(record.get("digest") == settings.digest())
