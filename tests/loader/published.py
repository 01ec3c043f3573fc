"""Checkpoints as their makers publish them: v4's keys, bfloat16, generation settings, tokenizer.

Position fields are the published ones; widths and depths are tiny, and the weights random. `pub`
directories are what a user downloads, not what this application or transformers v5 would write.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

VOCABULARY = 320
Json = dict[str, Any]

TINY: Json = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "use_cache": True,
}
MOE: Json = {"moe_intermediate_size": 32, "num_experts_per_tok": 2, "norm_topk_prob": True}
VISION: Json = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LLAMA_3_ROPE: Json = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GEMMA_3: Json = {
    **TINY,
    "model_type": "gemma3_text",
    "head_dim": 16,
    "num_hidden_layers": 6,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "query_pre_attn_scalar": 16,
    "tie_word_embeddings": True,
}
LONGROPE: Json = {
    "type": "longrope",
    "short_factor": [1.0 + i / 10 for i in range(8)],
    "long_factor": [1.0 + i for i in range(8)],
}

CONFIGS: dict[str, Json] = {
    "llama-3.1": {
        **TINY, "model_type": "llama", "max_position_embeddings": 131072, "rope_theta": 5e5,
        "rope_scaling": LLAMA_3_ROPE, "eos_token_id": [2, 5, 6],
    },
    "llama-2-32k": {
        **TINY, "model_type": "llama", "max_position_embeddings": 32768,
        "rope_scaling": {"type": "linear", "factor": 8.0},
    },
    "deepseek-coder": {
        **TINY, "model_type": "llama", "max_position_embeddings": 16384, "rope_theta": 1e5,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "mistral-nemo": {
        **TINY, "model_type": "mistral", "head_dim": 32, "max_position_embeddings": 131072,
        "rope_theta": 1e6, "sliding_window": None,
    },
    "qwen3": {
        **TINY, "model_type": "qwen3", "head_dim": 16, "max_position_embeddings": 40960,
        "rope_theta": 1e6, "rope_scaling": None, "max_window_layers": 2, "sliding_window": None,
        "use_sliding_window": False, "tie_word_embeddings": True,
    },
    "qwen3-moe": {
        **TINY, **MOE, "model_type": "qwen3_moe", "head_dim": 16, "max_position_embeddings": 40960,
        "rope_theta": 1e6, "num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
    "phi-3-128k": {
        **TINY, "model_type": "phi3", "num_key_value_heads": 4, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096, "rope_scaling": LONGROPE,
        "sliding_window": 262144,
    },
    "phi-4-mini": {
        **TINY, "model_type": "phi3", "num_key_value_heads": 4, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "rope_scaling": {**LONGROPE, "short_factor": [1.0] * 6,
                         "long_factor": [1.0 + i for i in range(6)]},
        "sliding_window": 262144, "tie_word_embeddings": True,
    },
    "command-r": {
        **TINY, "model_type": "cohere", "max_position_embeddings": 8192,
        "model_max_length": 131072, "rope_theta": 8e6, "tie_word_embeddings": True,
        "logit_scale": 0.0625, "use_qk_norm": False,
    },
    "gemma-2": {
        **TINY, "model_type": "gemma2", "head_dim": 16, "max_position_embeddings": 8192,
        "sliding_window": 4096, "cache_implementation": "hybrid", "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma-3-1b": {
        **GEMMA_3, "max_position_embeddings": 32768, "sliding_window": 512,
        "cache_implementation": "hybrid",
    },
    "gemma-3-4b": {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            **GEMMA_3, "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
        "vision_config": VISION,
        "mm_tokens_per_image": 4, "image_token_index": 310, "boi_token_index": 311,
        "eoi_token_index": 312, "torch_dtype": "bfloat16", "tie_word_embeddings": True,
    },
    "olmo-3": {
        **TINY, "model_type": "olmo3", "num_key_value_heads": 4, "num_hidden_layers": 4,
        "max_position_embeddings": 65536, "rope_theta": 5e5, "sliding_window": 4096,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "rope_scaling": {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192,
            "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0,
        },
    },
    "smollm3": {
        **TINY, "model_type": "smollm3", "num_hidden_layers": 4, "max_position_embeddings": 65536,
        "rope_theta": 5e6, "no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4,
        "use_sliding_window": False, "sliding_window": None, "tie_word_embeddings": True,
        "layer_types": ["full_attention"] * 4,
    },
    "gpt-oss": {
        **TINY, "model_type": "gpt_oss", "head_dim": 16, "num_local_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 131072, "rope_theta": 150000,
        "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"],
        "initial_context_length": 4096, "intermediate_size": 64, "attention_bias": True,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
            "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        },
    },
    "glm-4.5": {
        **TINY, **MOE, "model_type": "glm4_moe", "head_dim": 16, "num_hidden_layers": 3,
        "max_position_embeddings": 131072, "rope_theta": 1e6, "partial_rotary_factor": 0.5,
        "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
        "topk_group": 1, "num_nextn_predict_layers": 1, "use_qk_norm": True,
        "routed_scaling_factor": 1.0, "attention_bias": True,
    },
    "deepseek-v3": {
        **TINY, **MOE, "model_type": "deepseek_v3", "num_key_value_heads": 4,
        "num_hidden_layers": 3, "max_position_embeddings": 163840, "rope_theta": 10000,
        "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "rope_scaling": {
            "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
            "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
        },
    },
    "granite-4": {
        **TINY, "model_type": "granitemoehybrid", "max_position_embeddings": 131072,
        "rope_theta": 10000, "position_embedding_type": "nope", "num_local_experts": 0,
        "num_experts_per_tok": 0, "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 96, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1,
        "mamba_d_state": 16, "mamba_expand": 2, "mamba_d_conv": 4, "mamba_chunk_size": 16,
        "tie_word_embeddings": True,
    },
    "lfm2": {
        **TINY, "model_type": "lfm2", "max_position_embeddings": 128000, "rope_theta": 1e6,
        "layer_types": ["conv", "full_attention"], "conv_L_cache": 3, "block_ff_dim": 96,
        "block_auto_adjust_ff_dim": False, "tie_word_embeddings": True, "tie_embedding": True,
    },
    "hunyuan": {
        **TINY, "model_type": "hunyuan_v1_dense", "head_dim": 16,
        "max_position_embeddings": 262144, "rope_theta": 10000.0,
        "rope_scaling": {
            "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
            "mscale_all_dim": 1.0, "type": "dynamic",
        },
        "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Family -> config.json, as published but for the sizes."""

GENERATION: dict[str, Json] = {
    "llama-3.1": {"bos_token_id": 1, "eos_token_id": [2, 5, 6], "do_sample": True,
                  "temperature": 0.6, "top_p": 0.9},
    "qwen3": {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0, "do_sample": True,
              "temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "gemma-2": {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2,
                "pad_token_id": 0, "cache_implementation": "hybrid"},
    "gemma-3-1b": {"cache_implementation": "hybrid", "do_sample": True, "eos_token_id": [2, 5],
                   "top_k": 64, "top_p": 0.95, "bos_token_id": 1, "pad_token_id": 0},
    "gemma-3-4b": {"do_sample": True, "eos_token_id": [2, 5], "top_k": 64, "top_p": 0.95,
                   "bos_token_id": 1, "pad_token_id": 0},
    "llama-2-32k": {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False, "temperature": 0.9,
                    "top_p": 0.6},
    "glm-4.5": {"_from_model_config": True, "eos_token_id": [2, 5, 6], "pad_token_id": 0},
}  # fmt: skip
"""Family -> generation_config.json, where there is one."""

FLOAT32 = ("e_score_correction_bias", "mlp.gate.weight")
"""Ends of names that GLM-4.5 and DeepSeek-V3 publish in float32 among bfloat16."""

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<end_of_turn>", "<|eom|>"]


def write_published(family: str, directory: Path, **changes: Any) -> Path:
    """Write the family's checkpoint to `directory`; `changes` to its config.json."""
    published = {**CONFIGS[family], **changes}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(published))
    config = AutoConfig.from_pretrained(directory)
    multimodal = "vision_config" in published
    auto = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32)
    for name, tensor in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # published ones are not 0
            tensor.copy_(torch.linspace(-1e-3, 1e-3, tensor.numel()) + 1 / 3)
    model.save_pretrained(directory)
    published.setdefault("architectures", [type(model).__name__])
    file = directory / "model.safetensors"
    weights = {
        _published_name(name): tensor if name.endswith(FLOAT32) else tensor.to(torch.bfloat16)
        for name, tensor in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(published, indent=2))
    (directory / "generation_config.json").unlink(missing_ok=True)
    if family in GENERATION:
        (directory / "generation_config.json").write_text(json.dumps(GENERATION[family]))
    write_tokenizer(directory)
    return directory


def _published_name(name: str) -> str:
    """v5 writes a tower's name shorter than it is published."""
    if name.startswith(("vision_tower.", "model.vision_tower.")) and ".vision_model." not in name:
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


def write_tokenizer(directory: Path) -> None:
    """Write a byte-level tokenizer.json, and the tokenizer_config.json of v4's days."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *alphabet]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    backend.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "model_max_length": 1_000_000,
        "clean_up_tokenization_spaces": False,
        "chat_template": (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
