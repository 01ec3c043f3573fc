"""Load a saved model as anybody would, in a process of its own, and look at what came out.

With the expectations that training wrote it compares with the model as it was in memory; without
them it looks at whether the directory agrees with itself. The process is `verifying_process.py`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME

from sft_app.loader.checkpoint.load_report import PEFT_CONFIG, check_no_adapter_beside
from sft_app.records.manifest import MANIFEST, damage_of
from sft_app.records.run_files import ADAPTER
from sft_app.records.verification import Check, Verification
from sft_app.serving.adapter_folder import is_adapter
from sft_app.serving.compare_logits import compare_logits, in_float32_if_small, read_expected
from sft_app.serving.expectations import (
    PROBE,
    model_facts,
    probe_logits,
    rope_facts,
    tokenizer_facts,
    without_legacy_type,
)
from sft_app.serving.reader_error import in_one_line
from sft_app.serving.verify_adapter import adapter_checks, in_one

SHOWN = 80
"""Characters of a value that is not as it was."""


def verify_saved(
    directory: Path, expectations: Path | None, *, trust_remote_code: bool = False
) -> Verification:
    """Return what plain transformers makes of `directory`; of an adapter alone, what PEFT does.

    `trust_remote_code`: code that stands in the directory may be run.
    """
    checks: dict[str, Check] = {}
    if is_adapter(directory):
        checks = adapter_checks(directory, expectations, trust_remote_code=trust_remote_code)
        return Verification(passed=all(check.passed for check in checks.values()), checks=checks)
    if (directory / MANIFEST).is_file():
        damage = damage_of(directory)
        checks["files"] = Check(passed=damage is None, detail=damage or "as they were written")
    try:
        model, missing = _load(directory, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a reader would run into
        checks["loads"] = Check(passed=False, detail=in_one_line(error))
        return Verification(passed=False, checks=checks)
    checks["loads"] = Check(
        passed=not missing, detail=missing or "every weight is there, and none too many"
    )
    expected = read_expected(expectations)
    checks["cache"] = _use_cache(model)
    checks["special tokens"] = _special_tokens(model, tokenizer, directory)
    checks["positions"] = _positions(model, tokenizer, expected)
    if expected is not None:
        facts = tokenizer_facts(tokenizer)
        of_template = {key: facts.pop(key) for key in ("chat", "chat_template")}
        checks["tokenizer"] = _same(facts, expected)
        checks["chat template"] = _same(of_template, expected)
        checks["generation"] = _same(model_facts(model), expected)
    checks["logits"] = _logits(model, tokenizer, expectations, expected)
    beside = expectations.parent / ADAPTER if expectations is not None else None
    if beside is not None and expected is not None and is_adapter(beside):
        del model
        checks["adapter"] = in_one(
            adapter_checks(beside, expectations, trust_remote_code=trust_remote_code)
        )
    return Verification(passed=all(check.passed for check in checks.values()), checks=checks)


def _load(directory: Path, trust_remote_code: bool) -> tuple[Any, str]:
    """The model in float32 if it is small, and which weights do not fit, in words."""
    check_no_adapter_beside(directory / PEFT_CONFIG, str(directory))
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype="auto", output_loading_info=True, trust_remote_code=trust_remote_code
    )
    model = in_float32_if_small(model)
    odd = {name: sorted(map(str, keys))[:3] for name, keys in info.items() if keys}
    return model.eval(), "; ".join(f"{name}: {', '.join(keys)}" for name, keys in odd.items())


def _use_cache(model: Any) -> Check:
    holders = [model.config.get_text_config(decoder=True), model.generation_config]
    # GPT's first configuration has no such word.
    off = [type(h).__name__ for h in holders if getattr(h, "use_cache", None) is False]
    return Check(passed=not off, detail=f"use_cache is off in {off}" if off else "use_cache is on")


def _special_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, directory: Path) -> Check:
    rows = model.get_input_embeddings().num_embeddings
    config, generation = model.config.get_text_config(decoder=True), model.generation_config
    wrong = []
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        own = getattr(tokenizer, name)
        if own is not None and own >= rows:
            wrong.append(f"{name} {own} has no row in an embedding of {rows}")
    ends = _as_list(getattr(generation, "eos_token_id", None))
    if not (directory / GENERATION_CONFIG_NAME).is_file():  # else that file alone is asked
        ends = ends or _as_list(config.eos_token_id)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        wrong.append(
            f"generation ends at {ends}, and the tokenizer's EOS is {tokenizer.eos_token_id}"
        )
    return Check(passed=not wrong, detail="; ".join(wrong) or f"answers end at {ends}")


def _positions(
    model: Any, tokenizer: PreTrainedTokenizerBase, expected: dict[str, Any] | None
) -> Check:
    text = model.config.get_text_config(decoder=True)
    found = {
        "rope_parameters": rope_facts(text),
        "max_position_embeddings": getattr(text, "max_position_embeddings", None),
        "model_max_length": tokenizer.model_max_length,
    }
    if expected is not None:
        written = expected["rope_parameters"]  # as a run of an older version wrote it, say
        if written is not None:
            expected = expected | {"rope_parameters": without_legacy_type(written)}
        return _same(found, expected)
    limit = found["max_position_embeddings"]
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        return Check(passed=False, detail=f"max_position_embeddings is {limit!r}")
    return Check(passed=True, detail=f"max_position_embeddings {limit}")


def _same(found: dict[str, Any], expected: dict[str, Any]) -> Check:
    # Through JSON, as what was expected came: numbers as keys, tuples.
    other = [
        f"{key} is {_differing(value, expected[key])}"
        for key, value in json.loads(json.dumps(found)).items()
        if key in expected and value != expected[key]  # a run of an older version wrote less
    ]
    return Check(passed=not other, detail="; ".join(other) or "the same")


def _differing(found: Any, expected: Any) -> str:
    """Both values, shortened; of long texts where they begin to differ."""
    one, other = str(found), str(expected)
    pairs = zip(one, other, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    begin = max(0, same - 20) if max(len(one), len(other)) > SHOWN else 0
    shown = [text[begin : begin + SHOWN] for text in (one, other)]
    return f"{shown[0]!r}, and was {shown[1]!r}"


def _logits(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    expectations: Path | None,
    expected: dict[str, Any] | None,
) -> Check:
    if expected is None or expectations is None or not (expectations / PROBE).is_file():
        _, logits = probe_logits(model, tokenizer, torch.device("cpu"))
        finite = bool(torch.isfinite(logits).all())
        return Check(passed=finite, detail="finite" if finite else "not finite")
    exact = model.dtype == torch.float32 and expected["computed_in"] == "float32"
    return compare_logits(model, expectations, exact=exact)


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
