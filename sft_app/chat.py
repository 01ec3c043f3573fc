"""sft-chat: talk to what a run has trained, or to any saved model."""

import argparse
import sys
from pathlib import Path

from sft_app.common.console import guard_console
from sft_app.records.run_files import MODEL


def main(arguments: list[str] | None = None) -> int:
    """Run the command: exit code 0, or 2 with one sentence."""
    guard_console()
    options = _parser().parse_args(arguments)
    folders = [options.directory, *([options.compare] if options.compare else [])]
    try:
        models = [_model_in(folder) for folder in folders]
    except ValueError as error:
        print(f"sft-chat: {error}", file=sys.stderr)
        return 2
    _chat(models, options)
    return 0


def _chat(models: list[Path], options: argparse.Namespace) -> None:
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
    speakers = [Speaker(model, device) for model in models]
    session = Session(speakers, sampling, _say)
    if options.system:
        for conversation in session.conversations:
            conversation.set_system(options.system)
    one_shot = options.prompt
    if one_shot is None and not sys.stdin.isatty():
        one_shot = sys.stdin.read().strip()
    if one_shot is not None:
        session.ask(one_shot)
        return
    print("Talk to the model; /help lists the commands.")
    read = line_reader()
    while True:
        try:
            line = read()
        except EOFError:
            return
        except KeyboardInterrupt:
            continue
        if not session.take(line):
            return


def _say(text: str) -> None:
    print(text, end="", flush=True)


def _model_in(directory: Path) -> Path:
    """The saved model of a run, or the directory itself."""
    model_dir = directory / MODEL if (directory / MODEL).is_dir() else directory
    if not (model_dir / "config.json").is_file():
        raise ValueError(
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
    parser.add_argument("--temperature", type=_number, default=0.7, help="0: no sampling")
    parser.add_argument("--top-p", type=_number, default=0.95)
    parser.add_argument("--max-new-tokens", type=_count, default=512)
    parser.add_argument("--seed", type=int)
    return parser


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number < 100:
        raise ValueError
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
