"""python -m sft_app.pretrain FOLDER [--recipe NAME]: a small Llama, and conversations for it."""

import argparse
import json
import random
import time
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from sft_app.common import imports  # noqa: F401 - keeps libraries quiet
from sft_app.common.permissions import as_umask_says
from sft_app.pretrain.retrieval_text import tokenizer_texts, tuning_retrievals
from sft_app.pretrain.settings import (
    DEFAULT,
    MADE_FROM,
    RECIPES,
    PretrainSettings,
    is_made,
    load_settings,
    recipes,
)
from sft_app.pretrain.tiny_model import build_model, pretrain
from sft_app.pretrain.train_tokenizer import as_chatml, learn_tokenizer
from sft_app.pretrain.training_rows import TrainingRows
from sft_app.pretrain.training_text import (
    Chat,
    conversations,
    further_conversations,
    python_sources,
)
from sft_app.records.run_files import write_atomically


def main() -> None:
    """Make the model and its conversations in FOLDER, unless they are there already."""
    parser = argparse.ArgumentParser(prog="python -m sft_app.pretrain", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model and the conversations go")
    parser.add_argument("settings", type=Path, nargs="?", help="a YAML file of your own")
    parser.add_argument(
        "--recipe", choices=recipes(), default=DEFAULT.stem, help="one that comes with sft_app"
    )
    arguments = parser.parse_args()
    settings = load_settings(arguments.settings or RECIPES / f"{arguments.recipe}.yaml")
    if is_made(arguments.folder, settings):
        print(f"The small Llama is in {arguments.folder} already.")
        return
    transformers.logging.disable_progress_bar()
    make(arguments.folder, settings)


def make(folder: Path, settings: PretrainSettings) -> None:
    """Write the model, train.json and eval.json; MADE_FROM comes last, and vouches for them."""
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MADE_FROM).unlink(missing_ok=True)
    first, then = settings.pretrain_conversations, settings.train_conversations
    chats = conversations(first)
    texts = python_sources(settings.source_megabytes, settings.seed)
    texts += [as_chatml(chat.conversation.messages) for chat in chats]
    tokenizer = learn_tokenizer(
        tokenizer_texts(texts, settings),
        settings.vocab_size,
        settings.context_length,
        digit_tokens=settings.digit_tokens,
    )
    stream = token_stream(texts, tokenizer)
    model = build_model(settings, tokenizer)
    print(
        f"Pre-training a Llama of {model.num_parameters() / 1e6:.2f}M parameters at "
        f"{settings.context_length} tokens of context, on {len(stream):,} tokens of text",
        flush=True,
    )
    loss = pretrain(model, TrainingRows(stream, tokenizer, settings), settings)
    if (second := settings.second_round()) is not None:
        loss = pretrain(model, TrainingRows(stream, tokenizer, second), second)
    model.save_pretrained(folder)
    as_umask_says(folder)
    tokenizer.save_pretrained(folder)
    further = further_conversations(
        first, then + settings.eval_conversations, tokenizer, settings.longest_question
    )
    train = further[:then]
    if settings.train_retrievals:
        train += tuning_retrievals(tokenizer, settings)
        random.Random(settings.seed).shuffle(train)
    write_records(folder / "train.json", train)
    write_records(folder / "eval.json", further[then:])
    seconds = round(time.perf_counter() - started, 1)
    record = {"digest": settings.digest(), "loss": loss, "seconds": seconds}
    write_atomically(folder / MADE_FROM, json.dumps(record, indent=2) + "\n")
    print(f"Pre-trained in {seconds:g} s, loss {loss:.3f}: {folder}")


def token_stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Tokenize the texts into one LongTensor [T], an end token after each."""
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    return torch.tensor([token for ids in encoded for token in (*ids, end)])


def write_records(path: Path, chats: list[Chat]) -> None:
    """Write the records as one JSON list, each as its file has it."""
    text = json.dumps([chat.record for chat in chats], ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
