"""The process that verifies a saved model, and prints the verdict as JSON.

`python -m sft_app.serving.verifying_process MODEL_DIR [EXPECTATIONS]`. Nearly all of its time is
imports: it leaves out what loading a model has no use for.
"""

import dataclasses
import json
import sys
from pathlib import Path

from sft_app.common.imports import UNUSED, lean_imports
from sft_app.common.processes import die_with_parent
from sft_app.records.run_files import ADAPTER
from sft_app.serving.adapter_folder import is_adapter


def main(directory: Path, expectations: Path | None) -> None:
    """Verify the model or adapter in `directory`, and an adapter beside what is expected."""
    folders = [directory, *([expectations.parent / ADAPTER] if expectations is not None else [])]
    without_peft = () if any(map(is_adapter, folders)) else ("peft",)
    with lean_imports(*UNUSED, *without_peft):
        import transformers

        from sft_app.serving.verify_saved import verify_saved

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(json.dumps(dataclasses.asdict(verify_saved(directory, expectations))))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m sft_app.serving.verifying_process MODEL_DIR [EXPECTATIONS]")
    die_with_parent()
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)
