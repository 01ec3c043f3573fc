"""Pad tokens, end tokens, chat templates and embedding rows."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.config.schema.model import ModelConfig, PaddingSide, TokenizerConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.model.embeddings import fit_model_to_tokenizer
from sft_app.loader.model.load_model import load_model
from sft_app.loader.model.save_pretrained import save_for_serving
from sft_app.loader.rope.rope_plan import plan_rope
from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer
from sft_app.loader.tokenizer.pad_token import NEW_PAD_TOKEN
from sft_app.loader.tokenizer.tokenizer_plan import TokenizerPlan
from sft_app.training.peft.lora import put_adapter

CHARACTERS = [*string.ascii_letters, *"<>/|_: \n"]
"""60 of them: with three special tokens, 63 ids."""
MakeCheckpoint = Callable[..., ModelConfig]


def make_tokenizer(
    directory: Path, *, special: list[str], begin: str | None = None, **names: Any
) -> Path:
    """A whole tokenizer with one id per character; `names` are eos_token=..., and so on."""
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS])}
    unknown = {"unk_token": names["unk_token"]} if names.get("unk_token") else {}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], **unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(special)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    return directory


SHAPES: dict[str, dict[str, Any]] = {
    "llama2": {
        "special": ["<unk>", "<s>", "</s>"], "begin": "<s>",
        "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
    },
    "llama3": {
        "special": [
            "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
            "<|eot_id|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>",
        ],
        "begin": "<|begin_of_text|>",
        "bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>",
    },
    "gpt2": {
        "special": ["<|endoftext|>"], "unk_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
    },
    "opt": {
        "special": ["<s>", "<pad>", "</s>", "<unk>"], "begin": "</s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "bos_token": "</s>", "eos_token": "</s>",
    },
    "qwen": {
        "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    },
}  # fmt: skip


def load(
    tmp_path: Path, shape: str, **settings: Any
) -> tuple[PreTrainedTokenizerBase, TokenizerPlan]:
    directory = make_tokenizer(tmp_path / shape, **SHAPES[shape])
    return load_tokenizer(
        TokenizerConfig(model_max_length=50, **settings),
        ModelConfig(name_or_path=str(directory)),
        LlamaConfig(vocab_size=96),
    )


@pytest.mark.parametrize(
    ("shape", "wanted", "token"),
    [
        ("llama2", "auto", "<unk>"),  # no pad: the unknown token, which is not EOS
        ("llama3", "auto", "<|finetune_right_pad_id|>"),  # no unk: reserved, made for padding
        ("gpt2", "auto", NEW_PAD_TOKEN),  # unk is EOS, nothing reserved
        ("opt", "auto", "<pad>"),  # a good pad of its own is kept
        ("qwen", "auto", NEW_PAD_TOKEN),  # its pad is its EOS
        ("llama2", "unk", "<unk>"),
        ("llama2", "eos", "</s>"),
        ("llama2", "new", NEW_PAD_TOKEN),
        ("llama3", "reserved", "<|finetune_right_pad_id|>"),
        ("llama3", "<|reserved_special_token_0|>", "<|reserved_special_token_0|>"),
    ],
)
def test_the_pad_token_follows_the_policy(
    tmp_path: Path, shape: str, wanted: str, token: str
) -> None:
    tokenizer, plan = load(tmp_path, shape, pad_token=wanted)
    assert plan.pad_token == tokenizer.pad_token == token
    assert plan.pad_token_id == tokenizer.pad_token_id == tokenizer.get_vocab()[token]
    assert plan.pad_reason
    assert (token in plan.added_tokens) == (token == NEW_PAD_TOKEN)
    if wanted == "auto":
        assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("shape", "wanted", "message"),
    [
        ("llama3", "unk", "no unknown token"),
        ("llama2", "reserved", "no reserved token"),
        ("llama2", "<no such token>", "is not in the vocabulary"),
    ],
)
def test_a_pad_token_that_is_not_there_is_refused(
    tmp_path: Path, shape: str, wanted: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, shape, pad_token=wanted)


def with_settings(tmp_path: Path, **settings: Any) -> TokenizerPlan:
    directory = make_tokenizer(tmp_path, **SHAPES["llama2"])
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    checkpoint = ModelConfig(name_or_path=str(directory))
    return load_tokenizer(TokenizerConfig(model_max_length=50), checkpoint, LlamaConfig())[1]


def test_a_special_token_that_tokenizer_json_lacks_is_told(tmp_path: Path) -> None:
    plan = with_settings(tmp_path, eos_token="<|end|>")
    assert plan.eos_token_id == 63
    assert plan.warnings[0].startswith("'<|end|>' is named as a special token, and tokenizer.json")
    stated = {"63": {"content": "<|end|>", "special": True}}
    told = with_settings(tmp_path, eos_token="<|end|>", added_tokens_decoder=stated).warnings
    assert not any("tokenizer.json" in warning for warning in told)


def test_an_id_that_tokenizer_json_lacks_is_kept_or_refused(tmp_path: Path) -> None:
    stated = {"70": {"content": "<|end|>", "special": True}}
    with pytest.raises(ConfigError, match=r"'<\|end\|>' is 70, and would be 63"):
        with_settings(tmp_path, eos_token="<|end|>", added_tokens_decoder=stated)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({}, "tokenizer.pad_token"), ({"pad_token": "eos", "add_tokens": ["@"]}, "tokenizer.add_tok")],
)
def test_a_new_token_never_takes_an_old_one_s_id(
    tmp_path: Path, settings: dict[str, Any], key: str
) -> None:
    """The next id is the number of tokens: of a vocabulary with a hole, that of its last."""
    directory = make_tokenizer(tmp_path, **SHAPES["qwen"])
    written = json.loads((directory / "tokenizer.json").read_text())
    del written["model"]["vocab"]["b"]
    (directory / "tokenizer.json").write_text(json.dumps(written))
    checkpoint = ModelConfig(name_or_path=str(directory))
    with pytest.raises(ConfigError, match=rf"^{key}.*its id that of '\\n' \(62\)"):
        load_tokenizer(TokenizerConfig(model_max_length=50, **settings), checkpoint, LlamaConfig())
    if settings:
        kept = TokenizerConfig(model_max_length=50, pad_token="eos")
        assert load_tokenizer(kept, checkpoint, LlamaConfig())[1].pad_token_id == 0


def test_padding_is_on_the_right_and_the_length_is_the_wanted_one(tmp_path: Path) -> None:
    tokenizer, plan = load(tmp_path, "llama2")
    assert (plan.padding_side, plan.model_max_length) == ("right", 50)
    batch = tokenizer(["A", "ABC"], padding=True)["input_ids"]
    assert batch[0][-2:] == [plan.pad_token_id] * 2
    assert load(tmp_path, "llama2", padding_side=PaddingSide.left)[0].padding_side == "left"


# Models and tokenizers together ------------------------------------------------------------------


def fitted(
    checkpoint: ModelConfig, directory: Path, **settings: Any
) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase, TokenizerPlan]:
    """(the model as it was, the fitted one, tokenizer, plan)"""
    original = AutoModelForCausalLM.from_pretrained(checkpoint.name_or_path)
    config = original.config
    tokenizer, plan = load_tokenizer(
        TokenizerConfig(model_max_length=50, name_or_path=str(directory), **settings),
        checkpoint,
        config,
    )
    model = load_model(checkpoint, config, plan_rope(config, 50, RopeConfig()))
    fit_model_to_tokenizer(model, tokenizer, plan)
    return original.eval(), model, tokenizer, plan


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [63, 96])
def test_added_tokens_start_at_the_mean_and_old_logits_stay(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, tied: bool, rows: int
) -> None:
    """63 rows: as many as the tokenizer has; 96: spare rows, of which none is lost."""
    checkpoint = make_checkpoint("llama", vocab_size=rows, tie_word_embeddings=tied)
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["llama2"])
    original, model, tokenizer, plan = fitted(
        checkpoint, directory, pad_token="new", add_tokens=["<x>", "<y>"]
    )
    assert plan.added_tokens == ("<x>", "<y>", NEW_PAD_TOKEN)
    assert tokenizer.convert_tokens_to_ids(["<x>", "<y>", NEW_PAD_TOKEN]) == [63, 64, 65]
    new_rows = model.get_input_embeddings().weight.shape[0]
    assert new_rows == (128 if rows == 63 else 96)
    assert model.config.vocab_size == new_rows
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        mean = layer.weight[:63].mean(dim=0)
        torch.testing.assert_close(layer.weight[63:66], mean.expand(3, -1))
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert same == tied
    ids = torch.tensor([tokenizer("ABC")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits[..., :63], original(ids).logits[..., :63])


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_trains_the_rows_of_added_tokens(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, tied: bool
) -> None:
    """The plan names the new rows; peft trains them alone, and merging puts them in place."""
    peft = pytest.importorskip("peft")
    checkpoint = make_checkpoint("llama", vocab_size=63, tie_word_embeddings=tied)
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["llama2"])
    _, model, _, plan = fitted(checkpoint, directory, add_tokens=["<x>"])
    assert plan.added_token_ids == (63,)
    before = model.get_input_embeddings().weight.detach().clone()
    layers = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            target_modules=["q_proj"],
            trainable_token_indices={layer: list(plan.added_token_ids) for layer in layers},
        ),
    )
    ids = torch.tensor([[1, 5, 63, 9]])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    after = adapted.merge_and_unload().get_input_embeddings().weight
    assert torch.equal(after[:63], before[:63])
    assert not torch.equal(after[63], before[63])


@pytest.mark.parametrize(("added", "new"), [([], (61, 62)), (["<x>"], (61, 62, 63))])
def test_ids_that_the_model_has_no_row_for_are_trained_by_an_adapter(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, added: list[str], new: tuple[int, ...]
) -> None:
    """Somebody added tokens to the tokenizer, and none to the model: the rows would stay a mean."""
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["llama2"])
    checkpoint = make_checkpoint("llama", vocab_size=61)
    _, model, tokenizer, plan = fitted(checkpoint, directory, add_tokens=added)
    assert plan.new_row_ids == new and len(plan.added_token_ids) == len(added)
    told = [warning for warning in plan.warnings if "2 of the tokenizer's ids" in warning]
    assert told and repr(tokenizer.convert_ids_to_tokens(61)) in told[0]
    trained = put_adapter(model, AdapterConfig(method=AdapterMethod.lora), plan.new_row_ids)
    labels = torch.tensor([[1, 61, 62, 5]])
    trained(input_ids=labels, labels=labels).loss.backward()
    rows = [p for n, p in trained.named_parameters() if "trainable_tokens_delta" in n]
    assert rows and all(len(row) == len(new) for row in rows)
    assert all(row.grad is not None and row.grad[:2].abs().sum(1).all() for row in rows)


def test_a_vocabulary_padded_beyond_the_tokenizer_never_shrinks(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["llama2"])
    _, model, _, plan = fitted(make_checkpoint("llama", vocab_size=96), directory)
    assert plan.vocab_size == 63 and model.config.vocab_size == 96


@pytest.mark.parametrize("pad", ["auto", "eos"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_end_token_is_learned_and_ids_agree(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, pad: str, tied: bool
) -> None:
    """Built with pad_token_id = eos_token_id, the embedding would freeze EOS: a row of zeros in
    its gradient."""
    checkpoint = make_checkpoint("llama", pad_token_id=2, tie_word_embeddings=tied)
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["llama2"])
    _, model, tokenizer, plan = fitted(checkpoint, directory, pad_token=pad)
    eos = tokenizer.eos_token_id
    model(torch.tensor([[1, 5, eos, 7]]), labels=torch.tensor([[1, 5, eos, 7]])).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient is not None and gradient[eos].abs().sum() > 0
    for holder in (model.config, model.generation_config):
        assert holder is not None
        assert holder.pad_token_id == plan.pad_token_id == tokenizer.pad_token_id
        assert (holder.bos_token_id, holder.eos_token_id) == (1, 2)
    if pad == "eos":
        assert any("end token" in warning for warning in plan.warnings)


def test_opt_keeps_its_own_pad_token_and_its_logits(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["opt"])
    original, model, _, plan = fitted(make_checkpoint("opt"), directory)
    assert plan.pad_token == "<pad>"
    ids = torch.tensor([[2, 9, 10]])
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, original(ids).logits)


def test_what_is_saved_answers_alike_and_has_its_cache_on(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("llama")
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["llama2"])
    _, model, tokenizer, plan = fitted(checkpoint, directory, pad_token="new")
    rope_plan = plan_rope(model.config, 50, RopeConfig())
    save_for_serving(model, tokenizer, rope_plan, plan, tmp_path / "saved")
    assert model.config.use_cache is False and tokenizer.model_max_length == 50
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert reloaded.config.use_cache is True and reloaded.generation_config.use_cache is True
    assert reloaded.config.pad_token_id == reloaded.generation_config.pad_token_id == 63
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        before = model.eval()(ids).logits
        assert torch.equal(before, reloaded.eval()(ids, use_cache=False).logits)
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_max_length"] == 64


def test_weights_that_were_gathered_elsewhere_are_saved(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("llama")
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["llama2"])
    _, model, tokenizer, plan = fitted(checkpoint, directory)
    gathered = {name: weight * 2 for name, weight in model.state_dict().items()}
    rope_plan = plan_rope(model.config, 50, RopeConfig())
    save_for_serving(model, tokenizer, rope_plan, plan, tmp_path / "s", state_dict=gathered)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "s").state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in gathered.items())


def test_alibi_is_saved_without_a_cap_below_what_the_tokenizer_allowed(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("bloom")
    shape = {**SHAPES["llama2"], "model_max_length": 4096}
    directory = make_tokenizer(tmp_path / "tokenizer", **shape)
    _, model, tokenizer, plan = fitted(checkpoint, directory)
    rope_plan = plan_rope(model.config, 50, RopeConfig())
    save_for_serving(model, tokenizer, rope_plan, plan, tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 4096


# Chat templates ----------------------------------------------------------------------------------

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "Go"},
    {"role": "assistant", "content": "OK"},
]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"

RENDERED = {
    "vicuna": f"<s>{VICUNA}USER: Hi ASSISTANT: Yo</s>USER: Go ASSISTANT: OK</s>",
    "alpaca": f"<s>{ALPACA}\n\n### Instruction:\nHi\n\n### Response:\nYo</s>"
    "\n\n### Instruction:\nGo\n\n### Response:\nOK</s>",
    "zephyr": "<s><|user|>\nHi</s>\n<|assistant|>\nYo</s>\n<|user|>\nGo</s>\n"
    "<|assistant|>\nOK</s>\n",
    "llama2": "<s>[INST] Hi [/INST] Yo </s><s>[INST] Go [/INST] OK </s>",
    "mistral": "<s>[INST] Hi [/INST] Yo</s>[INST] Go [/INST] OK</s>",
    "chatml": "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    "<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\nOK<|im_end|>\n",
    "gemma": "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n"
    "<start_of_turn>user\nGo<end_of_turn>\n<start_of_turn>model\nOK<end_of_turn>\n",
    "llama3": "<s>" + HEADER.format("user") + "Hi<|eot_id|>" + HEADER.format("assistant")
    + "Yo<|eot_id|>" + HEADER.format("user") + "Go<|eot_id|>" + HEADER.format("assistant")
    + "OK<|eot_id|>",
}  # fmt: skip
RENDERED["fastchat"] = RENDERED["vicuna"]  # the same text, and one more label at times


def test_every_format_has_its_test() -> None:
    from sft_app.loader.tokenizer.chat_template import template_names

    assert template_names() == sorted(RENDERED)


@pytest.mark.parametrize("name", RENDERED)
def test_a_named_format_is_rendered_as_published(tmp_path: Path, name: str) -> None:
    tokenizer, plan = load(tmp_path, "llama2", chat_template=name)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == RENDERED[name]
    assert plan.chat_template == f"the {name} format"


@pytest.mark.parametrize("name", RENDERED)
def test_a_prompt_is_the_beginning_of_the_conversation(tmp_path: Path, name: str) -> None:
    """What the model is asked at inference is what it saw in training, up to trailing spaces."""
    tokenizer, _ = load(tmp_path, "llama2", chat_template=name)
    prompt = tokenizer.apply_chat_template(CHAT[:3], tokenize=False, add_generation_prompt=True)
    assert RENDERED[name].startswith(prompt)
    rest = RENDERED[name][len(prompt) :]
    assert rest.lstrip(" ").startswith("OK")


@pytest.mark.parametrize("name", RENDERED)
def test_the_answers_and_their_ends_are_marked(tmp_path: Path, name: str) -> None:
    """{% generation %} covers each answer and the token that ends it, and nothing else.

    FastChat's own labels have the space before an answer, too.
    """
    tokenizer, _ = load(tmp_path, "llama2", chat_template=name)
    encoded = tokenizer.apply_chat_template(
        CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [
        token
        for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        if mask
    ]
    text = "".join(tokenizer.convert_ids_to_tokens(marked))
    ends = {
        "chatml": "<|im_end|>", "gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "llama2": " </s>",
    }  # fmt: skip
    end = ends.get(name, "</s>")
    space = " " if name == "fastchat" else ""
    assert text == f"{space}Yo{end}{space}OK{end}"


@pytest.mark.parametrize(
    ("shape", "name"), [("llama2", "vicuna"), ("llama3", "llama3"), ("opt", "vicuna")]
)
def test_there_is_exactly_one_bos(tmp_path: Path, shape: str, name: str) -> None:
    tokenizer, plan = load(tmp_path, shape, chat_template=name)
    assert plan.adds_bos
    ids = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert ids[0] == tokenizer.bos_token_id and ids[1] != tokenizer.bos_token_id


def test_no_bos_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    tokenizer, plan = load(tmp_path, "qwen", chat_template="chatml")
    assert not plan.adds_bos
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text.startswith("<|im_start|>user\nHi<|im_end|>")


def test_the_end_of_a_turn_ends_generation_too(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    directory = make_tokenizer(tmp_path / "tokenizer", **SHAPES["qwen"])
    _, model, tokenizer, plan = fitted(make_checkpoint("llama"), directory, chat_template="chatml")
    end_of_turn = tokenizer.get_vocab()["<|im_end|>"]
    assert plan.stop_token_ids == (tokenizer.eos_token_id, end_of_turn)
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, end_of_turn]


def test_markers_that_would_be_spelled_out_are_told(tmp_path: Path) -> None:
    _, plan = load(tmp_path, "llama2", chat_template="chatml")
    assert any("tokenizer.add_tokens=" in warning for warning in plan.warnings)
    settings = {"chat_template": "chatml", "add_tokens": ["<|im_start|>", "<|im_end|>"]}
    _, plan = load(tmp_path, "llama2", **settings)
    assert not plan.warnings


def test_a_template_may_be_a_file_and_its_faults_are_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}")
    _, plan = load(tmp_path, "llama2", chat_template=str(file))
    assert plan.chat_template == str(file)
    assert "2 BOS" in plan.warnings[0] and "without an end token" in plan.warnings[1]


def test_an_unknown_template_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'vicunia'.*alpaca, chatml.*vicuna, zephyr"):
        load(tmp_path, "llama2", chat_template="vicunia")


def test_a_plan_can_be_read_and_stored(tmp_path: Path) -> None:
    _, plan = load(tmp_path, "llama2", chat_template="vicuna")
    assert json.loads(json.dumps(plan.as_dict()))["pad_token"] == "<unk>"
    assert "pad token" in str(plan) and plan.pad_reason in str(plan)


def test_a_tokenizer_that_needs_code_of_its_own_is_refused(tmp_path: Path) -> None:
    directory = make_tokenizer(tmp_path, **SHAPES["llama2"])
    path = directory / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    with pytest.raises(ConfigError, match=r"^model\.trust_remote_code: false, but the tokenizer"):
        load_tokenizer(
            TokenizerConfig(model_max_length=50),
            ModelConfig(name_or_path=str(directory)),
            LlamaConfig(vocab_size=96),
        )


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no tokenizer can be read"):
        load_tokenizer(
            TokenizerConfig(model_max_length=50),
            ModelConfig(name_or_path=str(tmp_path)),
            GPT2Config(),
        )


def test_a_tokenizer_that_has_no_chat_template_by_nature_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mistral-common's, which transformers takes for a folder with a tekken.json alone."""
    added = PreTrainedTokenizerFast.add_tokens

    def refuse(self: Any, tokens: Any, **options: Any) -> int:
        if not tokens:
            raise NotImplementedError
        return added(self, tokens, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "add_tokens", refuse)
    with pytest.raises(ConfigError, match=r"has no chat template.* a tokenizer.json is needed"):
        load(tmp_path, "qwen")


def test_the_first_mistral_s_format_is_told_where_the_tokenizer_is_a_later_one(
    tmp_path: Path,
) -> None:
    """There [INST] is a token, and the spaces around it are tokens that the model never saw."""
    said = "that of Mistral 7B's first version"
    _, plan = load(tmp_path, "llama2", chat_template="mistral", add_tokens=["[INST]"])
    assert any(said in warning for warning in plan.warnings)
    _, plan = load(tmp_path, "llama2", chat_template="mistral")
    assert not any(said in warning for warning in plan.warnings)
