"""The process that verifies a saved model, and prints the verdict as JSON.

`python -m sft_app.serving.verifying_process MODEL_DIR [EXPECTATIONS] [--trust-remote-code]`.
Nearly all of its time is imports: it leaves out what loading a model has no use for.
"""

import dataclasses
import json
import sys
from pathlib import Path

from sft_app.common.imports import UNUSED, lean_imports
from sft_app.common.processes import die_with_parent
from sft_app.records.run_files import ADAPTER
from sft_app.serving.adapter_folder import is_adapter
from sft_app.serving.fresh_process import TRUST


def main(directory: Path, expectations: Path | None, *, trust_remote_code: bool) -> None:
    """Verify the model or adapter in `directory`, and an adapter beside what is expected."""
    folders = [directory, *([expectations.parent / ADAPTER] if expectations is not None else [])]
    without_peft = () if any(map(is_adapter, folders)) else ("peft",)
    with lean_imports(*UNUSED, *without_peft):
        import transformers

        from sft_app.serving.verify_saved import verify_saved

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    verdict = verify_saved(directory, expectations, trust_remote_code=trust_remote_code)
    print(json.dumps(dataclasses.asdict(verdict)))


if __name__ == "__main__":
    places = [Path(word) for word in sys.argv[1:] if word != TRUST]
    if len(places) not in (1, 2):
        name = "python -m sft_app.serving.verifying_process"
        sys.exit(f"usage: {name} MODEL_DIR [EXPECTATIONS] [{TRUST}]")
    die_with_parent()
    main(
        places[0],
        places[1] if len(places) == 2 else None,
        trust_remote_code=TRUST in sys.argv[1:],
    )
