"""sft-verify: does a saved model load, as it was trained, with plain transformers?"""

import argparse
import sys
from pathlib import Path

from sft_app.common.console import guard_console
from sft_app.records.run_files import ADAPTER, MODEL, VERIFICATION
from sft_app.records.saved_model import told_of_earlier
from sft_app.records.verification import Verification
from sft_app.serving.fresh_process import verify_in_fresh_process


def main(arguments: list[str] | None = None) -> int:
    """Run the command: exit code 0, 1 (a check failed), 2 (no model there)."""
    guard_console()
    parser = argparse.ArgumentParser(
        prog="sft-verify",
        description="Load a saved model in a fresh process, with plain transformers, and check "
        "weights, positions, cache, special tokens, tokenizer, chat template and logits. For a "
        "run's directory: against the model as it was in memory when training ended.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a run, or any saved model")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that the model carries"
    )
    options = parser.parse_args(arguments)
    directory: Path = options.directory
    model_dir = directory / MODEL if (directory / MODEL).is_dir() else directory
    if not any((model_dir / name).is_file() for name in ("config.json", "adapter_config.json")):
        print(f"sft-verify: {directory} holds no saved model: no config.json.", file=sys.stderr)
        return 2
    whole = model_dir.resolve()
    run_dir = whole.parent if whole.name in (MODEL, ADAPTER) else whole
    expectations = run_dir / VERIFICATION
    known = expectations.is_dir()
    verdict = verify_in_fresh_process(
        model_dir,
        expectations if known else None,
        trust_remote_code=options.trust_remote_code,
    )
    show(verdict, model_dir, known=known)
    if (told := told_of_earlier(directory)) is not None:
        print(f"sft-verify: {told}", file=sys.stderr)
    return 0 if verdict.passed else 1


def show(verdict: Verification, model_dir: Path, *, known: bool) -> None:
    """Print each check in a line, and the verdict."""
    for name, check in verdict.checks.items():
        print(f"{'ok' if check.passed else 'FAILED':<8}{name:<16}{check.detail}")
    against = "the model as it was trained" if known else "itself: no run wrote what to expect"
    print(f"{'verified' if verdict.passed else 'NOT VERIFIED'}: {model_dir}, against {against}")


if __name__ == "__main__":
    sys.exit(main())
