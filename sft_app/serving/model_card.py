"""README.md of a saved model: what it was made from, how, and what came out.

Written from the files of the run alone, after everything else, by the process that started it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sft_app.records.result import Evaluation, RunResult, read_result
from sft_app.records.run_files import CONFIG, MODEL, MODEL_CARD, PLAN, write_atomically
from sft_app.records.saved_model import saved_by_last_start
from sft_app.serving.serving_lines import serving_lines


def write_model_card(run_dir: Path) -> Path | None:
    """Write README.md into the run's model/; None, and nothing, where no model was saved.

    One that an earlier start has saved keeps the card that it has.
    """
    model_dir = run_dir / MODEL
    if not (model_dir / "config.json").is_file():
        return None
    result = read_result(run_dir)
    if not saved_by_last_start(result):
        return None
    config = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    plan_file = run_dir / PLAN
    plan = json.loads(plan_file.read_text(encoding="utf-8")) if plan_file.is_file() else {}
    path = model_dir / MODEL_CARD
    write_atomically(path, card_text(result, config, plan, model_dir))
    return path


def card_text(
    result: RunResult, config: dict[str, Any], plan: dict[str, Any], model_dir: Path
) -> str:
    """Return the card as Markdown, with the header that model hubs read."""
    sections = [
        _header(result, config),
        f"# {Path(result.model).name}, fine-tuned at {result.context_length:,} tokens",
        "\n".join(_made_from(result, config, plan)),
        *_results(result),
        "## Use",
        f"```\n{_lines(model_dir)}\n```",
        "## License",
        "Fill in `license` above: the base model's licence and the data's both bind what was made "
        "from them.",
    ]
    return "\n\n".join(sections) + "\n"


def _header(result: RunResult, config: dict[str, Any]) -> str:
    base = result.model
    fields: dict[str, Any] = {"library_name": "transformers", "license": "other"}
    if _is_hub_id(base):
        fields["base_model"] = base
    fields["tags"] = ["sft", "long-context", f"context-{result.context_length}"]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False).strip()}\n---"


def _made_from(result: RunResult, config: dict[str, Any], plan: dict[str, Any]) -> Iterator[str]:
    rope, adapter = plan.get("rope", {}), config.get("adapter", {})
    factor = f", factor {result.rope_factor:g}" if result.rope_factor else ""
    original = rope.get("original_context_length")
    yield f"- base model: `{_public(result.model)}`"
    yield f"- data: {_data(config.get('data', {}).get('train'))}"
    before = f", from {original:,}" if isinstance(original, int) else ""
    length = f"{result.context_length:,} tokens{before}"
    yield f"- context: {length} (RoPE: {result.rope_method}{factor})"
    method = adapter.get("method", "none")
    yield f"- method: {'all weights' if method == 'none' else f'{method}, merged'}"
    amount = f"{result.steps:,} steps, {result.tokens.supervised:,} supervised tokens"
    yield f"- training: {amount}, seed {result.seed}"
    if result.weights_of_step not in (None, result.steps):
        yield f"- weights: those after step {result.weights_of_step:,}, by the held-out loss"
    if result.verification is not None:
        yield f"- saved model: {result.verification.sentence()}"
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    if versions:
        yield f"- made with: {versions}"


def _is_hub_id(name: str) -> bool:
    """`owner/name`, and no folder of this machine that happens to read like it."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _public(name: str) -> str:
    """A hub's or a package's name as it is; of a path only the end: a card leaves the building."""
    return name if _is_hub_id(name) or "://" in name else Path(name).name


def _data(train: object) -> str:
    sources = train if isinstance(train, list) else [train]
    paths = [source.get("path") if isinstance(source, dict) else source for source in sources]
    return ", ".join(f"`{_public(str(path))}`" for path in paths)


def _results(result: RunResult) -> Iterator[str]:
    before, after = result.evaluation_before, result.evaluation_after
    newest = after or before
    if newest is None:
        return
    yield "## Results"
    rows = ["| measured | before | after |", "| --- | ---: | ---: |"]
    old, new = _numbers(before), _numbers(after)
    for label in dict.fromkeys([*old, *new]):
        rows.append(f"| {label} | {old.get(label, '')} | {new.get(label, '')} |")
    yield "\n".join(rows)
    if newest.tasks:
        yield (
            "Tasks are RULER-style: the definitions of arXiv:2404.06654 on other text; the scores "
            "do not compare with the paper's tables."
        )


def _numbers(evaluation: Evaluation | None) -> dict[str, str]:
    """Label -> number, in words."""
    if evaluation is None:
        return {}
    found = {}
    if evaluation.heldout is not None:
        found["held-out loss (nats per token)"] = f"{evaluation.heldout.loss:.4f}"
    for length, measured in evaluation.by_length.items():
        found[f"perplexity at {int(length):,} tokens"] = f"{measured.perplexity:.3f}"
    for task, scores in evaluation.tasks.items():
        for length, score in scores.items():
            found[f"{task} at {int(length):,} tokens"] = f"{score.score:.0%}"
    for rule, tokens in evaluation.effective_length.items():
        found[f"effective length ({rule})"] = "none" if tokens is None else f"{tokens:,}"
    return found


def _lines(model_dir: Path) -> str:
    lines = []
    for line in serving_lines(model_dir, shown_as=f"./{model_dir.name}"):
        note = f", {line.note}" if line.note else ""
        lines += [f"# {line.engine}{note}", line.command]
    return "\n".join(lines)
