"""What other tools call our settings: answered with the name here.

Their values, and names without a setting here, are in alias_values.py and elsewhere.py.
"""

_NAMES = {
    "trainer.learning_rate": (
        "lr learning_rate peak_lr max_lr peak_learning_rate base_lr lr_max max_learning_rate"
    ),
    "trainer.num_train_epochs": (
        "epochs num_epochs n_epochs max_epochs total_epochs train_epochs num_passes"
    ),
    "trainer.max_steps": (
        "steps num_steps max_train_steps iterations max_iters total_steps train_steps "
        "total_training_steps num_training_steps train_iters"
    ),
    "trainer.per_device_train_batch_size": (
        "batch_size bs micro_batch_size train_batch_size per_device_batch_size mbs "
        "micro_batch_size_per_gpu micro_train_batch_size device_batch_size batch_size_per_device "
        "batch_size_per_gpu local_batch_size"
    ),
    "trainer.gradient_accumulation_steps": (
        "grad_accum gradient_accumulation accumulation_steps accumulate_grad_batches "
        "grad_accum_steps gas accumulation grad_acc grad_acc_steps gradient_acc_steps"
    ),
    "trainer.warmup_steps": (
        "warmup warmup_ratio num_warmup_steps lr_warmup_steps lr_warmup_ratio warmup_iters "
        "lr_warmup_iters warmup_step"
    ),
    "trainer.lr_scheduler_type": (
        "scheduler lr_scheduler lr_schedule schedule lr_decay_style scheduler_type "
        "lr_scheduler_name"
    ),
    "trainer.optim": "optimizer optimiser opt",
    "trainer.max_grad_norm": (
        "grad_clip clip_grad clip_grad_norm gradient_clip_val gradient_clipping max_norm "
        "gradient_clip clip_norm"
    ),
    "trainer.gradient_checkpointing": (
        "checkpointing activation_checkpointing grad_checkpointing grad_ckpt "
        "enable_activation_checkpointing recompute enable_gradient_checkpointing "
        "use_gradient_checkpointing activation_recompute"
    ),
    "trainer.dataloader_num_workers": "num_workers",
    "trainer.parallelism": (
        "fsdp deepspeed zero zero_stage strategy fsdp_config use_fsdp ddp sharding_strategy "
        "deepspeed_config data_parallel_shard_dim dp_shard"
    ),
    "trainer.context_parallel_size": (
        "cp cp_size sequence_parallel_size sp_size sequence_parallel_degree "
        "ulysses_sequence_parallel_size context_parallel_dim context_parallel_degree ulysses_size "
        "ring_attn_size sequence_parallel"
    ),
    "trainer.tensor_parallel_size": (
        "tp tp_size tensor_parallel_dim tensor_model_parallel_size tensor_parallel_degree "
        "tensor_parallel"
    ),
    "trainer.report_to": (
        "wandb tensorboard mlflow logger loggers log_with use_wandb metric_logger tracker "
        "trackers use_tensorboard log_to"
    ),
    "trainer.resume_from_checkpoint": (
        "resume resume_from ckpt_path checkpoint auto_resume_from_checkpoints checkpoint_dir "
        "checkpoint_path resume_path resume_mode resume_ckpt"
    ),
    "trainer.torch_compile": "compile compile_model use_compile",
    "trainer.extra.neftune_noise_alpha": "neftune neftune_alpha neftune_noise_alpha",
    "context_length": (
        "cutoff_len max_seq_length max_seq_len max_length seq_len seq_length sequence_len "
        "sequence_length ctx_len context context_len max_model_len block_size n_ctx "
        "max_context_length length ctx ctx_size context_window context_size max_sequence_length "
        "max_context max_context_len seqlen max_seqlen max_tokens_per_row n_positions "
        "max_position_embeddings train_ctx tokenizer.max_seq_len tokenizer.max_length "
        "cutoff_length maxlen max_len train_on_length num_ctx"
    ),
    "model.name_or_path": (
        "model_name model_name_or_path model_path base_model model_id "
        "pretrained_model_name_or_path pretrained model.path model.name model_dir "
        "model.partial_pretrain base_model_name checkpointer.checkpoint_dir hf_model "
        "model_path_or_name llm base_model_name_or_path model_id_or_path model.id model_file "
        "model_checkpoint init_from hf_path model.model_name_or_path "
        "model.pretrained_model_name_or_path"
    ),
    "model.dtype": "dtype torch_dtype precision model_dtype weight_dtype mixed_precision amp",
    "model.attn_implementation": (
        "attention attn flash_attn flash_attention use_flash_attn use_flash_attention "
        "use_flash_attention_2 flash_attention_2 sdp_attention sdpa_attention xformers_attention "
        "attn_impl attention_implementation attn_type"
    ),
    "tokenizer.name_or_path": (
        "tokenizer_name tokenizer_path tokenizer_name_or_path tokenizer.path tokenizer.name "
        "tokenizer_model tokenizer_dir"
    ),
    "tokenizer.chat_template": (
        "template chat_template prompt_template conv_template chat_template_path "
        "conversation_template chat_template_jinja tokenizer.template conversation prompt_style "
        "template_name chat_format"
    ),
    "data.train": (
        "dataset datasets data_path train_file dataset_name dataset_path train_data train_dataset "
        "data_file data_files data.path data.files train_path data_dir dataset_dir train_files "
        "train_data_path training_file training_data train data.name data.train_path "
        "data.train_files data_name dataset_name_or_path dataset_mixer train_dataset_path "
        "dataset_id dataset.source dataset.path train_jsonl jsonl"
    ),
    "data.eval": (
        "eval_file validation_file val_file eval_data eval_dataset val_data eval_data_path "
        "validation_data test_file validation_path val_path valid_data data.val_files data.val "
        "data.validation data.test eval_files val_files eval_path test_datasets val_dataset "
        "val_dataset_path"
    ),
    "data.eval_examples": (
        "val_size val_set_size eval_size test_size validation_split validation_split_percentage "
        "eval_split heldout test_split split_dataset_ratio validation_size num_eval_examples"
    ),
    "data.max_examples": (
        "max_samples max_train_samples num_samples num_examples max_train_examples limit subset "
        "num_train_samples train_samples"
    ),
    "data.packing": (
        "packing sample_packing neat_packing pack packed dataset.packed pack_sequences "
        "packing_strategy padding_free multipack_real_batches remove_padding use_remove_padding "
        "batch_flattening packing_strategies"
    ),
    "data.num_proc": (
        "preprocessing_num_workers dataset_num_proc dataset_processes num_preprocess_workers "
        "num_preprocessing_workers preprocess_num_workers data_num_workers"
    ),
    "adapter.rank": (
        "lora_r lora_rank r rank adapter.r lora_dim adapter.lora_r adapter.lora_rank "
        "model.lora_rank lora.rank lora.r network_dim"
    ),
    "adapter.alpha": "lora_alpha adapter.lora_alpha model.lora_alpha lora.alpha network_alpha",
    "adapter.dropout": "lora_dropout adapter.lora_dropout lora.dropout",
    "adapter.target_modules": (
        "lora_target_modules lora_target target_modules lora_attn_modules lora_target_linear "
        "lora_modules adapter.lora_target lora.target_modules lora_apply_to"
    ),
    "adapter.method": (
        "lora qlora use_lora use_peft peft finetuning_type load_in_4bit train_type tuner_type "
        "q_lora lora_enable sft_type quantization_bit tuning_type peft_method peft_type bits "
        "use_qlora adapter_type quantize finetune_type lora_enabled full_finetune full_finetuning"
    ),
    "rope.method": (
        "rope_scaling rope_type rope_method rope_scaling_type rope.type rope.scaling "
        "rope.rope_type rope_scaling.type rope_scaling.rope_type rope_scaling_method"
    ),
    "rope.factor": (
        "scaling_factor rope_factor rope_scaling_factor factor rope_scaling.factor rope.scale "
        "rope.scaling_factor rope_freq_scale rope_scale linear_scaling_factor"
    ),
    "rope.theta": (
        "rope_theta theta rope_base rope.base rope_freq_base rotary_base rope_base_frequency "
        "model.rope_theta rotary_emb_base"
    ),
    "launch.nproc_per_node": (
        "gpus num_gpus ngpus n_gpus nproc num_processes devices world_size gpus_per_node "
        "n_gpus_per_node num_devices num_gpus_per_node trainer.devices n_procs nprocs"
    ),
    "launch.nnodes": "nodes num_nodes num_machines node_count machines trainer.num_nodes nnode",
    "launch.device": "device use_cpu accelerator device_type cpu backend_device",
    "evaluation.max_tokens": "max_eval_tokens",
    "trainer.lr_scheduler_kwargs.min_lr_rate": (
        "min_lr min_learning_rate cosine_min_lr_ratio min_lr_ratio lr_min"
    ),
    "trainer.gradient_checkpointing_kwargs.offload": (
        "activation_offloading enable_activation_offloading activation_offload "
        "offload_activations cpu_offload_activations"
    ),
    "trainer.adam_beta1": "beta1",
    "trainer.adam_beta2": "beta2",
    "trainer.adam_epsilon": "eps epsilon adam_eps",
    "trainer.weight_decay": "wd decay",
    "trainer.save_steps": (
        "save_every save_interval save_freq checkpoint_interval ckpt_interval save_every_n_steps"
    ),
    "trainer.save_strategy": "checkpoint_strategy",
    "trainer.save_total_limit": (
        "max_checkpoints keep_checkpoints max_ckpts keep_last_n_checkpoints max_to_keep"
    ),
    "trainer.eval_steps": (
        "eval_every eval_interval eval_freq test_freq val_check_interval eval_every_n_steps"
    ),
    "trainer.eval_strategy": "evaluation_strategy do_eval",
    "evaluation.batch_size": "per_device_eval_batch_size eval_batch_size",
    "trainer.logging_steps": "log_every log_interval log_every_n_steps log_freq log_steps",
    "trainer.early_stopping_patience": "early_stopping patience",
    "trainer.fsdp_replicas": "data_parallel_replicate_dim dp_replicate hsdp_replicas",
    "trainer.tiled_mlp": "use_tiled_mlp tiled_compute",
    "trainer.loss_head": (
        "enable_liger_kernel use_liger_kernel use_liger liger liger_kernel cut_cross_entropy "
        "fused_linear_cross_entropy liger_fused_linear_cross_entropy loss_fn"
    ),
    "trainer.bf16": "pure_bf16 use_bf16",
    "model.revision": "model_revision base_model_revision model_version",
    "model.trust_remote_code": "trust_remote remote_code model_trust_remote_code",
    "model.original_context_length": (
        "original_max_position_embeddings original_context original_max_len base_context_length"
    ),
    "tokenizer.use_fast": "use_fast_tokenizer tokenizer_use_fast use_fast",
    "tokenizer.add_tokens": "new_tokens additional_special_tokens extra_tokens add_special_tokens",
    "data.format": (
        "dataset_format dataset_type data_format formatting conversation_style conversation_type"
    ),
    "data.columns": (
        "field_mapping column_mapping dataset_text_field column_map field_messages text_column "
        "columns dataset_columns message_property_mappings"
    ),
    "data.roles": "role_mapping roles tags role_map",
    "data.train_on": "train_on mask_history only_last_turn last_turn_only",
    "data.overlong": (
        "excess_length_strategy truncation_strategy truncation overflow truncation_mode "
        "overlength too_long"
    ),
    "data.cache_dir": (
        "dataset_prepared_path tokenized_path dataset_cache_dir data_cache_dir data_cache_path"
    ),
    "data.split_seed": "shuffle_seed data_seed dataset_seed split.seed",
    "data.preview": "debug_num_examples print_examples show_examples",
    "adapter.rank_stabilised": (
        "use_rslora lora_use_rslora peft_use_rslora rslora rank_stabilized adapter.rank_stabilized"
    ),
    "adapter.quantization": "bnb_4bit_quant_type quant_type quantization_type",
    "adapter.double_quantization": (
        "bnb_4bit_use_double_quant double_quant double_quantization use_nested_quant "
        "use_bnb_nested_quant"
    ),
    "rope.beta_fast": "yarn_beta_fast",
    "rope.beta_slow": "yarn_beta_slow",
    "rope.attention_factor": "yarn_attn_factor attn_factor mscale_factor",
    "launch.node_rank": "machine_rank node_id",
    "launch.rdzv_endpoint": "master_addr main_process_ip master_address rendezvous_endpoint",
    "launch.timeout": "ddp_timeout nccl_timeout dist_timeout process_group_timeout",
    "seed": "random_seed rng_seed torch_seed manual_seed global_seed",
    "run.name": (
        "run_name experiment_name wandb_run_name wandb_name name exp_name job_name run_id exp"
    ),
    "sweep.name": "sweep_name study_name sweep_id",
    "evaluation.tasks": "eval_tasks benchmarks tasks lm_eval_tasks",
    "hydra.run.dir": (
        "output_dir out_dir save_dir run_dir output exp_dir default_local_dir workdir work_dir "
        "ckpt_dir save_path output_path results_dir checkpoint_folder"
    ),
}

ALIASES = {key: tuple(names.split()) for key, names in _NAMES.items()}
"""Key -> what it is called elsewhere."""

OUR_NAME = {alias: key for key, aliases in ALIASES.items() for alias in aliases}
