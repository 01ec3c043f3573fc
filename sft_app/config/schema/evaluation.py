"""What is measured before and after training."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class EvaluationConfig:
    """Choose what is measured before and after training."""

    before: bool = True
    """Evaluate the model as loaded, too: the report then says what training changed."""
    after: bool = True
    """Evaluate the trained model, as it was saved."""
    max_examples: int | None = 200
    """At most this many held-out conversations; null: all of them."""
    max_tokens: int | None = None
    """Stop after about this many held-out tokens; null: no limit."""
    batch_size: int = 1
    """Held-out examples in one forward pass."""
    lengths: list[int] = field(default_factory=list)
    """Context lengths (tokens) at which perplexity is measured on long documents. Empty: at none,
    and in a sweep at every context length of the sweep."""
    documents: Any = None
    """Text files, one document each (a path, folder, glob or a list); null: the held-out
    conversations that are long enough."""
    max_documents: int = 16
    """At most this many long documents."""
