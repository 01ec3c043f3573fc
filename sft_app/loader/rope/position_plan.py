"""What is planned for a model's positions, whatever their kind."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PositionPlan:
    """The outcome of `decide_rotary`, `decide_table` or `decide_unlimited`, before weights."""

    method: str
    """The method in force afterwards: `none` for a model that is not scaled."""
    changed: bool
    """Whether the model will differ from its checkpoint."""
    reason: str
    """Why, in one sentence."""
    factor: float | None = None
    effective: int | None = None
    """Tokens that the model can take afterwards; None: no limit."""
    rope_parameters: dict[str, Any] | None = None
    """As `config.rope_parameters` is to be; None: not a rotary model."""
    max_position_embeddings: int | None = None
    other_updates: dict[str, Any] = field(default_factory=dict)
    """Further attributes of the text configuration to set before construction."""
    warnings: tuple[str, ...] = ()
