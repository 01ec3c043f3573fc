"""Training examples as coloured text, label by label (`sft-plan data.preview=3`)."""

from rich.console import Group
from rich.panel import Panel
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from sft_app.data.labels import IGNORE_INDEX
from sft_app.data.prepare_data import PreparedData

SUPERVISED = "bold green"
READ = "dim"
OPENS, CLOSES = "⟦", "⟧"
"""Around what is supervised: a pipe, a file and many eyes know no colours."""


def preview(prepared: PreparedData, tokenizer: PreTrainedTokenizerBase, count: int) -> Group:
    """Return the first `count` documents of the training set, as a rich renderable.

    Supervised tokens are bold green in ⟦ ⟧, tokens that are only read are dim. Special tokens are
    shown, so that an end of turn that is not supervised can be seen.
    """
    documents = getattr(prepared.train, "examples", prepared.train)
    panels = [
        _panel(documents[number], tokenizer, number) for number in range(min(count, len(documents)))
    ]
    legend = Text.assemble((f"{OPENS}supervised{CLOSES} ", SUPERVISED), ("only read", READ))
    return Group(legend, *panels)


def _panel(item: dict, tokenizer: PreTrainedTokenizerBase, number: int) -> Panel:
    ids, labels = item["input_ids"].tolist(), item["labels"].tolist()
    text = Text()
    for is_supervised, run in _runs(ids, labels):
        decoded = tokenizer.decode(run)
        if is_supervised:
            text.append(f"{OPENS}{decoded}{CLOSES}", SUPERVISED)
        else:
            text.append(decoded, READ)
    supervised = sum(label != IGNORE_INDEX for label in labels)
    title = f"example {number + 1}: {len(ids):,} tokens, {supervised:,} supervised"
    return Panel(text, title=title, title_align="left")


def _runs(ids: list[int], labels: list[int]) -> list[tuple[bool, list[int]]]:
    """Neighbours of the same kind together: one byte of a character alone has no text."""
    runs: list[tuple[bool, list[int]]] = []
    for token, label in zip(ids, labels, strict=True):
        is_supervised = label != IGNORE_INDEX
        if not runs or runs[-1][0] != is_supervised:
            runs.append((is_supervised, []))
        runs[-1][1].append(token)
    return runs
