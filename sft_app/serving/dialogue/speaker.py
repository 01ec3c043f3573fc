"""A loaded model that answers, a piece of text at a time."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TextIteratorStreamer,
)

from sft_app.common.errors import ConfigError
from sft_app.compat.model_internals import forget_longer_inputs
from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.data.chat.special_text import special_tokens
from sft_app.loader.checkpoint.load_report import PEFT_CONFIG, check_no_adapter_beside
from sft_app.loader.checkpoint.locate import find_checkpoint
from sft_app.loader.rope.model_context import read_context
from sft_app.loader.tokenizer.backend import load_backend
from sft_app.records.run_files import MODEL
from sft_app.serving.adapter_folder import is_adapter
from sft_app.serving.dialogue.answer_parts import message_of, without_tokens
from sft_app.serving.dialogue.dialogue_turns import DialogueTurns, prompt_ids
from sft_app.serving.load_adapter import base_of, load_adapter
from sft_app.serving.reader_error import in_one_line


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest one."""

    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 512
    seed: int | None = None


class _Stop(StoppingCriteria):
    """Ends a generation from another thread."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.asked, device=input_ids.device)


class Speaker:
    """Holds one model with its tokenizer, for many answers."""

    def __init__(
        self, directory: Path, device: torch.device, *, trust_remote_code: bool = False
    ) -> None:
        """Load what was saved, in its own dtype; adapters of PEFT with their base.

        `trust_remote_code`: code that the model carries may be run. Raises ConfigError for what
        cannot be loaded.
        """
        whole = directory.resolve()
        self.name = whole.parent.name if whole.name == MODEL else whole.name
        self.device = device
        dtype: Any = torch.float32 if device.type == "cpu" else "auto"
        try:
            load: Any = load_adapter if is_adapter(directory) else _load
            model = load(whole, dtype, trust_remote_code=trust_remote_code)
            self.tokenizer = _tokenizer(directory, trust_remote_code)
        except ConfigError:
            raise
        except Exception as error:  # whatever a broken file makes of the readers
            raise ConfigError(f"{directory} cannot be loaded: {in_one_line(error)}") from error
        self.model: Any = model.to(device).eval()
        self.special = special_tokens(self.tokenizer)
        self.written = ""
        """The last answer as far as it came, with its special tokens."""
        self.prompt_length = 0
        """Tokens of the last prompt."""
        self.answer_length = 0
        """Tokens of the last answer."""
        self.answer_is_cut = False
        """Whether the last answer was ended by its limit, and not by the model."""

    @property
    def context_length(self) -> int | None:
        """Return the tokens that the model takes; None where nothing says it.

        Of what its tokenizer and its configuration say, the smaller number: a tokenizer may state
        a length that the model was never scaled to.
        """
        own = read_context(self.model.config.get_text_config(decoder=True)).effective
        stated: tuple[Any, ...] = (self.tokenizer.model_max_length, own)
        return min((int(length) for length in stated if self._is_known(length)), default=None)

    def used(self, conversation: DialogueTurns) -> int:
        """Return the tokens of the prompt that the next answer follows."""
        return len(prompt_ids(conversation, self.tokenizer))

    def answer(self, conversation: DialogueTurns, sampling: Sampling) -> Iterator[str]:
        """Yield the answer to the conversation as it is generated; may be left at any time."""
        self.prompt_length, self.answer_length, self.answer_is_cut = 0, 0, False
        self.written = ""
        ids = prompt_ids(conversation, self.tokenizer)
        room = sampling.max_new_tokens
        if self.context_length is not None:
            room = min(room, self.context_length - len(ids))
        if room < 1:
            return
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        prompt = torch.tensor([ids], device=self.device)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=False)
        stop = _Stop()
        warm = sampling.temperature > 0
        options = {"temperature": sampling.temperature, "top_p": sampling.top_p} if warm else {}
        found: dict[str, Any] = {}
        forget_longer_inputs(self.model)

        def generate() -> None:
            try:
                with torch.no_grad():
                    found["ids"] = self.model.generate(
                        input_ids=prompt,
                        attention_mask=torch.ones_like(prompt),
                        do_sample=warm,
                        max_new_tokens=room,
                        streamer=streamer,
                        stopping_criteria=[stop],
                        pad_token_id=self.tokenizer.pad_token_id,
                        # What its generation_config.json may say, and one streamed answer is not.
                        num_beams=1,
                        num_return_sequences=1,
                        return_dict_in_generate=False,
                        tokenizer=self.tokenizer,  # for stop_strings
                        **options,
                    )
            except Exception as error:  # told where the answer is read
                found["error"] = error
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            for text in streamer:
                self.written += text
                if shown := without_tokens(text, self.special):
                    yield shown
        finally:
            stop.asked = True
            thread.join()
        if "error" in found:
            raise found["error"]
        self.prompt_length = len(ids)
        self.answer_length = found["ids"].shape[1] - len(ids)
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.answer_is_cut = self.answer_length >= room and int(found["ids"][0, -1]) not in ends

    def message(self) -> dict[str, str]:
        """Return the turn of the last answer, what was thought apart from what was said."""
        return message_of(self.written, self.special)

    @staticmethod
    def _is_known(length: object) -> bool:
        return isinstance(length, int | float) and 0 < length < 2**40


def _load(directory: Path, dtype: Any, *, trust_remote_code: bool) -> Any:
    """The model, of which no weight is missing: transformers would draw it at random."""
    check_no_adapter_beside(directory / PEFT_CONFIG, str(directory))
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, output_loading_info=True, trust_remote_code=trust_remote_code
    )
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise ConfigError(
            f"{directory} lacks weights ({', '.join(missing[:3])}): what it says would mean "
            "nothing; sft-verify shows what is wrong with it."
        )
    return model


def _tokenizer(directory: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """That of the directory; of an adapter without one, its merged model's, or its base's.

    Built as for training: of a sentencepiece model alone transformers makes other ids.
    """
    places = [directory]
    if is_adapter(directory):
        places += [directory.resolve().parent / MODEL, Path(base_of(directory).location)]
    place = next((p for p in places if (p / "tokenizer_config.json").is_file()), places[-1])
    settings = ModelConfig(name_or_path=str(place), trust_remote_code=trust_remote_code)
    try:
        return load_backend(TokenizerConfig(), settings, find_checkpoint(settings)).tokenizer
    except ConfigError as error:  # names settings that a chat has not
        raise ConfigError(f"{directory} cannot be loaded: {in_one_line(error)}") from error
