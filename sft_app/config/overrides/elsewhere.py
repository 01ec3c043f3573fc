"""Settings of other tools that have no counterpart here: answered with what is done instead."""

_ONLY_ANSWERS = "only the assistant's turns are learned (data.train_on=all_turns or last_turn)"
_REPLACED = (
    "a run's folder is never overwritten: run.name=NAME goes on in its folder, and "
    "trainer.resume_from_checkpoint=never starts anew and keeps the old one aside"
)
_CACHE = "tokens are kept and reused by themselves, in data.cache_dir"
_BATCH = (
    "an optimizer step has trainer.per_device_train_batch_size x "
    "trainer.gradient_accumulation_steps x processes rows: set these"
)
_TRACKER = (
    "trackers read the environment: WANDB_PROJECT=... sft-train ..., with trainer.report_to=wandb; "
    "the run is called as run.name"
)
_EIGHT_BITS = "frozen weights have 16 or 4 bits: adapter=lora or adapter=qlora"
_NO_LAYERS = "all parameters are trained, or an adapter: adapter=lora"
_PADDING = "rows are packed without padding (data.packing=best_fit), or padded to the longest"
_MODEL_CLASS = "the class is read from the model's own config.json: model.name_or_path is enough"
_PREFERENCES = "supervised fine-tuning is all there is: leave it out"
_ADAPTER = (
    "an adapter goes on with adapter=lora trainer.resume_from_checkpoint=CHECKPOINT, or a new one "
    "begins on its run's merged model: model.name_or_path=.../model"
)
_SPLITS = "data.train=org/name/CONFIG:SPLIT names a configuration and a split; so does data.eval"
_HUB = "nothing is uploaded: `hf upload ORG/NAME outputs/.../model` does that"

_SAME_ANSWER = {
    _ONLY_ANSWERS: (
        "train_on_inputs", "train_on_prompt", "train_on_input", "assistant_only_loss",
        "completion_only_loss", "train_on_responses_only", "mask_prompt", "mask_inputs",
        "roles_to_train", "train_on_eos", "response_template", "instruction_template",
        "dataset.train_on_input", "loss_on_prompt", "loss_scale",
    ),
    _REPLACED: ("overwrite_output_dir", "overwrite", "force_overwrite", "exist_ok"),
    _CACHE: (
        "overwrite_cache", "lazy_preprocess", "lazy_tokenize", "streaming", "preprocessing_only",
        "skip_prepare_dataset", "use_cache_dataset", "load_from_cache_file", "buffer_size",
    ),
    _BATCH: (
        "global_batch_size", "total_batch_size", "effective_batch_size", "tokens_per_batch",
        "data.train_batch_size", "batch_size_total",
    ),
    _TRACKER: (
        "wandb_project", "wandb_entity", "wandb_run_id", "wandb_log_model", "wandb_mode",
        "wandb_watch", "tracker_project_name", "project_name", "project", "logging_dir",
        "mlflow_experiment_name",
    ),
    _EIGHT_BITS: ("load_in_8bit", "int8", "quantization", "quantization_method", "quant_method"),
    _NO_LAYERS: (
        "freeze_trainable_layers", "unfrozen_parameters", "freeze_layers", "freeze", "train_layers",
        "freeze_parameters", "trainable_parameters", "lora_modules_to_save", "modules_to_save",
        "additional_target", "train_embeddings", "use_galore", "use_badam", "use_dora",
        "peft_use_dora",
        "lora_bias", "lora_fan_in_fan_out", "loraplus_lr_ratio", "loftq_config", "use_llama_pro",
    ),
    _PADDING: (
        "pad_to_sequence_len", "pad_to_max_length", "pad_to_multiple_of", "group_by_length",
        "padding", "eval_sample_packing", "eval_packing", "padding_strategy", "shift_attn",
        "s2_attention", "longlora",
    ),
    _MODEL_CLASS: (
        "model_type", "tokenizer_type", "model_class", "is_llama_derived_model", "model_family",
        "is_mistral_derived_model", "model_config", "model_init_kwargs", "model_config_type",
        "overrides_of_model_config", "config_name", "model_arch",
    ),
    _PREFERENCES: ("stage", "do_train", "rl", "task", "task_type", "trainer_type", "pref_beta"),
    _SPLITS: (
        "dataset_config", "dataset_split", "dataset.split", "dataset_train_split", "subset_name",
        "dataset_test_split", "dataset_config_name", "dataset_subset", "train_split", "split",
    ),
    _HUB: ("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "export_hub_model_id"),
}  # fmt: skip

ELSEWHERE = {name: sentence for sentence, names in _SAME_ANSWER.items() for name in names} | {
    "betas": "these are trainer.adam_beta1 and trainer.adam_beta2",
    "adam_betas": "these are trainer.adam_beta1 and trainer.adam_beta2",
    "saves_per_epoch": "trainer.save_steps=0.1 saves after each tenth of the steps; "
    "trainer.save_strategy=epoch after each epoch",
    "evals_per_epoch": "trainer.eval_strategy=steps with trainer.eval_steps=0.1 measures after "
    "each tenth of the steps; trainer.eval_strategy=epoch after each epoch",
    "steps_per_epoch": "trainer.max_steps ends a run after so many steps",
    "max_steps_per_epoch": "trainer.max_steps ends a run after so many steps",
    "plot_loss": "each run draws its losses into report.html by itself",
    "use_unsloth": "kernels are chosen by themselves; trainer.loss_head=liger and "
    "trainer.torch_compile=true name two of them",
    "adapter_name_or_path": _ADAPTER,
    "lora_model_dir": _ADAPTER,
    "adapter_path": _ADAPTER,
    "peft_model_path": _ADAPTER,
    "create_new_adapter": "each run with adapter=lora makes one",
    "special_tokens": "tokenizer.pad_token and tokenizer.add_tokens=[...] set these",
    "eos_token": "the turn's end is the chat template's: tokenizer.chat_template sets it",
    "bos_token": "the beginning is the chat template's: tokenizer.chat_template sets it",
    "resize_vocab": "it is done by itself for tokenizer.add_tokens=[...]",
    "resize_token_embeddings": "it is done by itself for tokenizer.add_tokens=[...]",
    "shuffle": "rows are shuffled by `seed`, in the same order on any number of processes",
    "mix_strategy": "data.train='[{path: a.jsonl, weight: 0.5}, {path: b.jsonl}]' mixes",
    "interleave_probs": "data.train='[{path: a.jsonl, weight: 0.5}, {path: b.jsonl}]' mixes",
    "upcast_layernorm": "trainer.bf16=true keeps the parameters in float32",
    "fsdp_transformer_layer_cls_to_wrap": "each decoder layer is a shard by itself: "
    "trainer.parallelism=fsdp is enough",
    "custom_sharded_layers": "each decoder layer is a shard by itself: "
    "trainer.parallelism=fsdp is enough",
    "loss": "it is the cross-entropy of the labels: trainer.loss_head and trainer.loss_weighting "
    "say how",
    "loss_type": "it is the cross-entropy of the labels: trainer.loss_head and "
    "trainer.loss_weighting say how",
    "kl_beta": _PREFERENCES,
    "max_tokens": "context_length is the length of rows, evaluation.max_tokens limits held-out "
    "tokens, and sweep.tokens is a sweep's budget",
    "cpu_offload": "trainer.gradient_checkpointing_kwargs.offload=true moves activations to the "
    "host",
    "max_new_tokens": "it belongs to sft-chat: --max-new-tokens",
    "temperature": "it belongs to sft-chat: --temperature",
}
"""Name elsewhere -> what to do here."""
