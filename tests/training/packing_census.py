"""Which families of transformers train on packed rows: `python -m tests.training.packing_census`.

Each family is built tiny and random, as the run's own code would train it on a CPU, and asked: do
packed documents get the loss and gradients that each would get alone? Prints a table in Markdown;
with a path it is written there.
"""

import contextlib
import copy
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sft_app.training.attention.choose_attention import (
    DocumentsLeak,
    choose_attention,
    verify_attention,
)
from sft_app.training.loss.patched_forward import install_chunked_loss
from tests.training.random_models import BY_FAMILY

SMALL: dict[str, Any] = {
    "vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "embed_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "decoder_ffn_dim": 48, "ffn_hidden": 48,
    "encoder_ffn_dim": 48, "intermediate_size_mlp": 48, "shared_expert_intermediate_size": 16,
    "moe_intermediate_size": 16, "expert_ffn_hidden_size": 16, "ffn_hidden_size": 48,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2,
    "encoder_layers": 1, "num_blocks": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "attention_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "lru_width": 32, "block_width": 32,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2,
    "mamba_d_ssm": 64, "mamba_n_groups": 1, "state_size": 8, "ssm_state_size": 8,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "mamba_dt_rank": 4,
    "max_position_embeddings": 256, "n_positions": 256, "max_seq_len": 256, "n_ctx": 256,
    "context_length": 256, "sliding_window": 6, "attention_chunk_size": 8,
    "attention_window_size": 6,
    "use_cache": False, "attention_dropout": 0.0, "hidden_dropout": 0.0, "is_decoder": True,
    "time_step_rank": 4, "index_head_dim": 8, "index_n_heads": 4, "index_topk": 6,
    "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8,
    "dt_rank": 4, "dim": 32, "emb_dim": 32, "global_head_dim": 8, "rotary_dim": 4,
    "word_embed_proj_dim": 32, "conv_dim": 32, "chunk_size": 4, "expert_size": 16,
}  # fmt: skip
"""Small numbers by the names that families give them; a family takes those that it has."""
OWN_SIZES: dict[str, dict[str, Any]] = {
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "bamba": {"attn_layer_indices": [1]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "num_hidden_layers": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 6},
    "zaya": {"num_experts_per_tok": 1},
    "deepseek_v2": {"topk_method": "greedy", "first_k_dense_replace": 1},
    "zamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "zamba2": {"num_hidden_layers": 4, "hybrid_layer_ids": [1, 3], "num_mem_blocks": 1},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"], "num_hidden_layers": 2,
        "index_n_heads": 2, "index_head_dim": 8,
    },
    "xlstm": {"num_heads": 4, "num_blocks": 2},
}  # fmt: skip
"""What a family needs beside, most of it one layer of each kind."""
KINDS_BY_INDEX = ("bamba", "falcon_h1", "recurrent_gemma")
"""Families whose kinds of layers follow from other fields."""
LENGTHS = (17, 5, 1, 9)
"""Tokens of the documents, the first longer than every window and chunk above."""
LARGEST = 4_000_000
"""Parameters: what stays larger has sizes by other names."""
ENCODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie",
    "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "xlm-roberta", "xlm-roberta-xl", "xmod", "xlm", "xlnet", "reformer",
)  # fmt: skip
"""Causal LMs in name: encoders, refused before loading."""
DECODERS_OF_OTHERS = (
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "git", "marian", "mbart",
    "moss_transcribe_diarize", "musicgen", "musicgen_melody", "mvp", "pegasus", "plbart",
    "prophetnet", "trocr", "whisper", "got_ocr2",
)  # fmt: skip
"""Decoders of translation, speech and pictures, which are no language models of their own."""


@dataclass(frozen=True)
class Answer:
    """A row of the table."""

    family: str
    packed: bool
    difference: float | None
    """Largest relative difference of loss or of a gradient, packed against alone."""
    how: str


def ask(family: str) -> Answer | None:
    """Return what the family answers; None where no tiny model of it can be built."""
    model = tiny_model(family)
    if model is None:
        return None
    plan = choose_attention(model.config, "cpu", "auto")
    try:
        choice = verify_attention(model, plan)
    except DocumentsLeak as leak:
        return Answer(family, False, None, leak.findings)
    loss = install_chunked_loss(model)
    how = choice.name
    called = [part for part in choice.reason.split("; ") if part.endswith("once per document")]
    how = ", ".join([how, *called])
    if not loss.is_ours:
        how += f"; the model's own loss ({loss.reason})"
    return Answer(family, True, packed_against_alone(model), how)


def tiny_model(family: str) -> PreTrainedModel | None:
    """Build the family in float32, with weights large enough for attention to matter."""
    try:
        config = tiny_config(family)
        text = config.get_text_config(decoder=True)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        if sum(p.numel() for p in skeleton.parameters()) > LARGEST or text.vocab_size > 1000:
            return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception:
        return None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    for holder in (model.config, text):
        holder.use_cache = False
    return model.train(False)


def tiny_config(family: str) -> PretrainedConfig:
    """Return the default configuration with every size that we know of made small."""
    default = CONFIG_MAPPING[family]()
    text = default.get_text_config(decoder=True)
    own = {name: value for name, value in SMALL.items() if _can_set(text, name)}
    if "kv_lora_rank" in own:
        own["num_key_value_heads"] = own["num_attention_heads"]
    own |= BY_FAMILY.get(family, {}) | OWN_SIZES.get(family, {})
    for name in () if family in KINDS_BY_INDEX else ("layer_types", "layers_block_type"):
        kinds = getattr(text, name, None)
        if kinds and name not in own and _can_set(text, name):
            kept = list(dict.fromkeys(kinds))
            own[name] = kept + kept[:1] * (2 - len(kept))
            own["num_hidden_layers"] = len(own[name])
            break
    inner = [name for name, value in vars(default).items() if value is text]
    if text is default or not inner:
        return CONFIG_MAPPING[family](**own)
    return CONFIG_MAPPING[family](**{inner[0]: type(text)(**own)})


def _can_set(config: PretrainedConfig, name: str) -> bool:
    return hasattr(config, name) and not isinstance(getattr(type(config), name, None), property)


def copy_calls_its_own_layers(model: PreTrainedModel) -> bool:
    """Tell whether a deep copy, every weight of it zero, gives packed rows nothing but zeros."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    positions = torch.cat([torch.arange(5), torch.arange(7)]).unsqueeze(0)
    tokens = torch.arange(3, 15).unsqueeze(0)
    return not bool(twin(input_ids=tokens, position_ids=positions).logits.any())


def packed_against_alone(model: PreTrainedModel) -> float:
    """Return the largest relative difference of loss and gradients."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 97, (1, sum(LENGTHS)), generator=generator).to(model.device)
    documents, start = [], 0
    for length in LENGTHS:
        part = tokens[:, start : start + length]
        labels = part.clone()
        labels[:, 0] = -100
        positions = torch.arange(length, device=model.device).unsqueeze(0)
        documents.append({"input_ids": part, "labels": labels, "position_ids": positions})
        start += length
    packed = {name: torch.cat([d[name] for d in documents], 1) for name in documents[0]}
    ours = _gradients(model, [packed])
    alone = _gradients(model, documents)
    worst = 0.0
    for name, expected in alone.items():
        scale = expected.abs().max().item()
        if scale > 1e-6:
            worst = max(worst, (ours[name] - expected).abs().max().item() / scale)
    return worst


def _gradients(model: PreTrainedModel, batches: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    model.zero_grad()
    total = torch.zeros((), device=model.device)
    for batch in batches:
        if (batch["labels"] != -100).any():
            loss = model(**batch, num_items_in_batch=sum(LENGTHS) - len(LENGTHS)).loss
            loss.backward()
            total += loss.detach()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": total} | gradients


def answers() -> Iterator[Answer | str]:
    """Yield each family's answer; its name where it cannot be built."""
    others = {*ENCODERS, *DECODERS_OF_OTHERS}
    for family in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - others):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                answer = ask(family)
            except Exception as error:
                answer = Answer(family, False, None, f"{type(error).__name__}: {error}")
        yield family if answer is None else answer


def table() -> str:
    """Return the page."""
    rows, not_built = [], []
    for answer in answers():
        if isinstance(answer, str):
            not_built.append(answer)
            continue
        difference = "" if answer.difference is None else f"{answer.difference:.0e}"
        how = " ".join(answer.how.split()).replace("|", "/")[:160]
        packed = "packed" if answer.packed else "rows of similar length"
        rows.append(f"| {answer.family} | {packed} | {difference} | {how} |")
    return (
        "# Which families train on packed rows\n\n"
        "Made by `make families`: tiny random models on a CPU, torch "
        f"{torch.__version__.split('+')[0]}, transformers {transformers_version}. The difference "
        "is the largest of loss and gradients, packed against each document alone, relative to the "
        "largest value.\n\n"
        "| family | with `data.packing=auto` | difference | how |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n\nNot built tiny by the program, and asked when they are loaded: "
        + ", ".join(not_built)
        + ".\n"
    )


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    page = table()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page, encoding="utf-8")
    else:
        print(page)
