"""Whether rows are packed: what is planned before weights are loaded, and what the model allows."""

from dataclasses import dataclass, replace

from sft_app.config.schema.data import DataConfig, Packing
from sft_app.config.schema.model import PaddingSide


@dataclass(frozen=True)
class PackingPlan:
    """Rows of packed documents, or batches of documents of similar length."""

    packed: bool
    reason: str
    asked_for: bool = False
    """By data.packing=best_fit: the rows are packed, or the run is refused."""

    def __str__(self) -> str:
        """Say it in a line of the log."""
        what = "documents packed into rows" if self.packed else "documents of similar length"
        return f"packing         {what} ({self.reason})"

    def applied_to(self, data: DataConfig) -> DataConfig:
        """Return the settings of the data with the decision in the place of data.packing=auto."""
        return replace(data, packing=Packing.best_fit if self.packed else Packing.none)


def plan_packing(packing: Packing, padding_side: PaddingSide) -> PackingPlan:
    """Decide by data.packing; `auto` packs wherever the loaded model keeps documents apart."""
    if packing is not Packing.auto:
        asked_for = packing is Packing.best_fit
        return PackingPlan(asked_for, f"data.packing={packing}", asked_for=asked_for)
    if padding_side is not PaddingSide.right:
        return PackingPlan(False, f"data.packing=auto with tokenizer.padding_side={padding_side}")
    return PackingPlan(True, "data.packing=auto: if the loaded model keeps documents apart")
