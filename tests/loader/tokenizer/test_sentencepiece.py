"""A tokenizer.model is segmented as the sentencepiece library does it, spaces and all."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig, TokenizerConfig
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.loader.tokenizer.sentencepiece_backend import ranked_merges

Train = Callable[..., Path]
CONFIG = LlamaConfig(vocab_size=1200)


def load(directory: Path, **settings: object) -> tuple[PreTrainedTokenizerBase, str, list[str]]:
    """(tokenizer, backend, warnings)"""
    tokenizer, plan = load_tokenizer(
        TokenizerConfig(model_max_length=64, **settings),  # type: ignore[arg-type]
        ModelConfig(name_or_path=str(directory)),
        CONFIG,
    )
    return tokenizer, plan.backend, list(plan.warnings)


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.fixture(scope="module")
def llama_like(sentencepiece_model: Train) -> Path:
    return sentencepiece_model().parent


def with_more_spaces(texts: list[str]) -> list[str]:
    """The texts, and each with its spaces multiplied at random."""
    chance = random.Random(0)
    return texts + ["".join(c * chance.randint(1, 9) if c == " " else c for c in t) for t in texts]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_dummy_prefix": False},
        {"byte_fallback": False},
        {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    ],
    ids=["llama", "gemma", "no bytes", "normalising"],
)
def test_real_text_comes_out_as_from_the_library(
    sentencepiece_model: Train, real_text: list[str], settings: dict[str, object]
) -> None:
    file = sentencepiece_model(**settings)
    tokenizer, backend, warnings = load(file.parent)
    library = SentencePieceProcessor(model_file=str(file))
    texts = with_more_spaces(real_text[:400])
    different = [t for t in texts if plain_ids(tokenizer, t) != library.encode(t)]
    assert different == []
    assert "rebuilt" in backend and "equal to the library" in backend
    assert not [w for w in warnings if "sentencepiece" in w]


def test_a_unigram_segmentation_is_as_likely_as_the_librarys(
    sentencepiece_model: Train, real_text: list[str]
) -> None:
    """Runs of one character can be cut in several ways of the same likelihood; a tie has no right
    answer, and the two libraries break it differently."""
    file = sentencepiece_model(model_type="unigram")
    tokenizer, _, _ = load(file.parent)
    library = SentencePieceProcessor(model_file=str(file))
    for text in with_more_spaces(real_text[:100]):
        ours, theirs = plain_ids(tokenizer, text), library.encode(text)
        likelihoods = [sum(library.get_score(i) for i in ids) for ids in (ours, theirs)]
        assert likelihoods[0] == pytest.approx(likelihoods[1], rel=1e-6)
        assert library.decode(ours) == library.decode(theirs) == text


def test_a_saved_tokenizer_still_equals_the_library(
    llama_like: Path, real_text: list[str], tmp_path: Path
) -> None:
    tokenizer, _, _ = load(llama_like)
    tokenizer.save_pretrained(tmp_path)
    library = SentencePieceProcessor(model_file=str(llama_like / "tokenizer.model"))
    texts = with_more_spaces(real_text[:300])
    for reloaded in (AutoTokenizer.from_pretrained(tmp_path), load(tmp_path)[0]):
        assert all(plain_ids(reloaded, t) == library.encode(t) for t in texts)


def test_only_a_tokenizer_model_is_enough(llama_like: Path) -> None:
    tokenizer, _, _ = load(llama_like)
    assert (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token) == (
        "<unk>", "<s>", "</s>",
    )  # fmt: skip
    ids = tokenizer("Hello world")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] != tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Hello world"
    assert tokenizer("</s>")["input_ids"] == [1, 2]  # special tokens in a text are themselves


@pytest.mark.parametrize("legacy", [True, False])
def test_legacy_is_the_dummy_prefix_after_a_special_token(llama_like: Path, legacy: bool) -> None:
    tokenizer, backend, _ = load(llama_like, legacy=legacy)
    pieces = tokenizer.tokenize("in</s>in")
    assert pieces == ["▁in", "</s>", "▁in" if legacy else "in"]
    assert f"legacy={str(legacy).lower()}" in backend


def test_the_checkpoints_own_settings_count(llama_like: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((llama_like / "tokenizer.model").read_bytes())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": False,
        "add_eos_token": True,
        "model_max_length": 4096,
        "added_tokens_decoder": {
            "1200": {"content": "<pad>", "special": True, "normalized": False}
        },
        "pad_token": "<pad>",
        "chat_template": "{{ messages[0]['content'] }}{{ eos_token }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer, backend, _ = load(tmp_path)
    ids = tokenizer("in")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id and ids[0] != tokenizer.bos_token_id
    assert "legacy=false" in backend
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 1200)
    assert tokenizer.chat_template == settings["chat_template"]


def state_tokens(directory: Path, llama_like: Path, added: dict[str, int], **special: str) -> None:
    (directory / "tokenizer.model").write_bytes((llama_like / "tokenizer.model").read_bytes())
    stated = {
        str(id_): {"content": token, "special": True, "normalized": False}
        for token, id_ in added.items()
    }
    settings = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": stated, **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def test_added_tokens_keep_their_ids_whatever_they_are_for(
    llama_like: Path, tmp_path: Path
) -> None:
    added = {"<|start|>": 1200, "<|pad|>": 1202, "<|end|>": 1201, "<s>": 1}
    special = {"eos_token": "<|end|>", "pad_token": "<|pad|>", "sep_token": "<|later|>"}
    state_tokens(tmp_path, llama_like, added, **special)
    tokenizer, _, _ = load(tmp_path)
    vocabulary = tokenizer.get_vocab()
    assert {token: vocabulary[token] for token in added} == added
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1201, 1202)
    assert plain_ids(tokenizer, "<|start|><|end|>") == [1200, 1201]
    for name in ("tokenizer_config.json", "added_tokens.json"):  # as older versions wrote it
        (tmp_path / name).write_text(json.dumps(special if name[0] == "t" else added))
    assert load(tmp_path)[0].get_vocab() == vocabulary


@pytest.mark.parametrize("added", [{"<|a|>": 1200, "<|b|>": 1210}, {"<|end|>": 2}])
def test_ids_that_cannot_be_had_are_refused(
    llama_like: Path, tmp_path: Path, added: dict[str, int]
) -> None:
    state_tokens(tmp_path, llama_like, added)
    with pytest.raises(ConfigError, match=r"do not follow its vocabulary .*would be 120[01]"):
        load(tmp_path)


def test_use_fast_false_prefers_the_library_to_a_tokenizer_json(
    llama_like: Path, tmp_path: Path
) -> None:
    tokenizer, _, _ = load(llama_like)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((llama_like / "tokenizer.model").read_bytes())
    assert "tokenizer.json" in load(tmp_path)[1]
    assert "equal to the sentencepiece library" in load(tmp_path)[1]
    assert "rebuilt" in load(tmp_path, use_fast=False)[1]


def test_a_tokenizer_json_that_contradicts_its_sentencepiece_model_is_told(
    llama_like: Path, tmp_path: Path
) -> None:
    """What v5 writes for Llama's tokenizer.model: merges ranked by id."""
    tokenizer, _, _ = load(llama_like)
    tokenizer.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole["model"]["merges"] = whole["model"]["merges"][::-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    (tmp_path / "tokenizer.model").write_bytes((llama_like / "tokenizer.model").read_bytes())
    _, _, warnings = load(tmp_path)
    assert any("tokenizer.use_fast=false" in w for w in warnings)


def test_merges_are_ranked_by_score_and_not_by_id() -> None:
    scores = {"a": 0.0, "b": 0.0, "c": 0.0, "bc": -2.0, "ab": -1.0, "abc": -3.0}
    assert ranked_merges(scores) == [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]


@pytest.mark.slow
def test_a_vocabulary_of_llamas_size_equals_the_library(
    sentencepiece_model: Train, real_text: list[str], tmp_path: Path
) -> None:
    """Mistral's published 32k model if mistral-common is installed, else one trained here."""
    import importlib.util

    spec = importlib.util.find_spec("mistral_common")
    if spec is not None and spec.submodule_search_locations:
        published = Path(spec.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"
        (tmp_path / "tokenizer.model").write_bytes(published.read_bytes())
    else:
        sentencepiece_model(tmp_path, vocab_size=8000)
    tokenizer, backend, _ = load(tmp_path)
    library = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    texts = with_more_spaces(real_text)
    assert [t for t in texts if plain_ids(tokenizer, t) != library.encode(t)] == []
    assert "equal to the library" in backend


@pytest.mark.parametrize(
    "before",
    [
        "import google.protobuf.runtime_version as installed; installed.MAJOR = 1",
        "import transformers.utils.sentencepiece_model_pb2_new",
        "import sentencepiece.sentencepiece_model_pb2",
    ],
    ids=["an older protobuf", "transformers' came first", "sentencepiece's came first"],
)
def test_any_reader_of_the_fields_that_a_process_can_have_reads_the_same(
    llama_like: Path, before: str
) -> None:
    """Packages such as MLflow hold protobuf below what sentencepiece 0.2.3 asks for; and protobuf
    refuses a second definition of messages that a process has."""
    program = f"""
{before}
from sft_app.loader.tokenizer.sentencepiece_backend import rebuild_tokenizer
from pathlib import Path
for _ in range(2):
    tokenizer = rebuild_tokenizer(Path({str(llama_like / "tokenizer.model")!r}), {{}}, legacy=True)
print(tokenizer("Hello  world").input_ids)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    library = SentencePieceProcessor(model_file=str(llama_like / "tokenizer.model"))
    assert json.loads(answer.stdout) == [library.bos_id(), *library.encode("Hello  world")]
