"""sft-chat: talk to what a run has trained, or to any saved model."""

import argparse
import sys
from pathlib import Path

from sft_app.common.console import guard_console
from sft_app.common.errors import ConfigError
from sft_app.records.run_files import MODEL
from sft_app.records.saved_model import told_of_earlier


def main(arguments: list[str] | None = None) -> int:
    """Run the command: exit code 0, 1 (no answer to the one question), 2 with one sentence."""
    guard_console()
    options = _parser().parse_args(arguments)
    folders = [options.directory, *([options.compare] if options.compare else [])]
    try:
        models = [_model_in(folder) for folder in folders]
        for told in filter(None, map(told_of_earlier, folders)):
            print(f"sft-chat: {told}", file=sys.stderr)
        one_shot = options.prompt
        if one_shot is None and not sys.stdin.isatty():
            one_shot = sys.stdin.read()
        if one_shot is not None and not one_shot.strip():
            raise ConfigError("there is no question: give --prompt TEXT, or text on its input.")
        return _chat(models, options, one_shot)
    except ConfigError as error:
        print(f"sft-chat: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while it loads
        return 130


def _chat(models: list[Path], options: argparse.Namespace, one_shot: str | None) -> int:
    # After the arguments are known to be right: these imports take seconds.
    import torch
    import transformers

    from sft_app.serving.dialogue.session import Session
    from sft_app.serving.dialogue.speaker import Sampling, Speaker
    from sft_app.serving.dialogue.terminal_input import line_reader

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    trusted: bool = options.trust_remote_code
    speakers = [Speaker(model, device, trust_remote_code=trusted) for model in models]
    session = Session(speakers, sampling, _say)
    if options.system:
        for conversation in session.conversations:
            conversation.set_system(options.system)
    if one_shot is not None:
        return 0 if session.ask(one_shot.strip()) else 1
    print("Talk to the model; /help lists the commands.")
    read = line_reader()
    while True:
        try:
            line = read()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            continue
        if not session.take(line):
            return 0


def _say(text: str) -> None:
    print(text, end="", flush=True)


def _model_in(directory: Path) -> Path:
    """The saved model of a run, or the directory itself."""
    model_dir = directory / MODEL if (directory / MODEL).is_dir() else directory
    if not any((model_dir / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(
            f"{directory} holds no saved model (no config.json): give a completed run's directory, "
            "or one that save_pretrained wrote."
        )
    return model_dir


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sft-chat",
        description="Talk to a trained model. With --prompt, or with text on standard input, one "
        "question is answered.",
    )
    parser.add_argument("directory", metavar="RUN_OR_MODEL", type=Path)
    parser.add_argument(
        "--compare", metavar="BASE", type=Path, help="let a second model answer, too"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="ask this, and leave")
    parser.add_argument("--system", metavar="TEXT", help="the system turn")
    parser.add_argument("--temperature", type=_temperature, default=0.7, help="0: no sampling")
    parser.add_argument("--top-p", type=_share, default=0.95, help="0 to 1")
    parser.add_argument("--max-new-tokens", type=_count, default=512)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that the model carries"
    )
    return parser


def _temperature(text: str) -> float:
    return _between(text, 0, 100)


def _share(text: str) -> float:
    return _between(text, 0, 1)


def _between(text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens: give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
