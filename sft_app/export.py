"""sft-export: a saved model in the formats of other programs."""

import argparse
import sys
from pathlib import Path

from sft_app.common.console import guard_console
from sft_app.common.errors import ConfigError
from sft_app.records.run_files import MODEL
from sft_app.records.saved_model import told_of_earlier
from sft_app.serving.adapter_folder import is_adapter
from sft_app.serving.export_gguf import OUT_TYPES, export_gguf
from sft_app.serving.gguf_positions import ramp_hint
from sft_app.serving.serving_lines import serving_lines


def main(arguments: list[str] | None = None) -> int:
    """Run the command: exit code 0, or 2 with one sentence."""
    guard_console()
    options = _parser().parse_args(arguments)
    directory: Path = options.directory
    model_dir = directory / MODEL if (directory / MODEL).is_dir() else directory
    if not (model_dir / "config.json").is_file():
        return _complain(f"{directory} holds no saved model: no config.json.")
    if is_adapter(model_dir):
        return _complain(
            f"{directory} is an adapter: name the run, whose model/ has it merged into its base."
        )
    if (told := told_of_earlier(directory)) is not None:
        print(f"sft-export: {told}", file=sys.stderr)
    try:
        if options.what == "commands":
            for line in serving_lines(model_dir):
                print(f"# {line.engine}" + (f": {line.note}" if line.note else ""))
                print(line.command)
            return 0
        target: Path = options.out or model_dir / f"model-{options.outtype}.gguf"
        keys = export_gguf(
            model_dir, target.expanduser(), out_type=options.outtype, converter=options.converter
        )
        hint = ramp_hint(model_dir)
    except (ConfigError, OSError) as error:
        return _complain(str(error))
    scaling = "no scaling" if keys.factor is None else f"{keys.scaling} scaling by {keys.factor:g}"
    length = "" if keys.context_length is None else f"{keys.context_length:,} tokens, "
    print(f"{target}: {keys.architecture}, {length}{scaling}: checked")
    if hint is not None:
        print(hint)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sft-export", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    gguf = kinds.add_parser("gguf", help="one file for llama.cpp, made by its own converter")
    gguf.add_argument("--out", metavar="FILE", type=Path, help="default: beside the model")
    gguf.add_argument("--outtype", choices=OUT_TYPES, default="f16")
    gguf.add_argument(
        "--converter", metavar="PATH", type=Path, help="llama.cpp, or its convert_hf_to_gguf.py"
    )
    commands = kinds.add_parser("commands", help="the lines that serve it: vLLM, SGLang, ...")
    for kind in (gguf, commands):
        kind.add_argument("directory", metavar="DIR", type=Path, help="a run, or a saved model")
    return parser


def _complain(message: str) -> int:
    print(f"sft-export: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
