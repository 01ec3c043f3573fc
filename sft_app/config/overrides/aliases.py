"""What other tools call our settings: answered with the name here."""

ALIASES = {
    "trainer.learning_rate": ("lr", "learning_rate", "peak_lr", "max_lr"),
    "trainer.num_train_epochs": ("epochs", "num_epochs", "n_epochs", "max_epochs"),
    "trainer.max_steps": ("steps", "num_steps", "max_train_steps", "iterations", "max_iters"),
    "trainer.per_device_train_batch_size": (
        "batch_size", "bs", "micro_batch_size", "train_batch_size", "per_device_batch_size", "mbs",
    ),
    "trainer.gradient_accumulation_steps": (
        "grad_accum", "gradient_accumulation", "accumulation_steps", "accumulate_grad_batches",
        "grad_accum_steps", "gas",
    ),
    "trainer.warmup_steps": ("warmup", "warmup_ratio", "num_warmup_steps", "lr_warmup_steps"),
    "trainer.lr_scheduler_type": ("scheduler", "lr_scheduler", "lr_schedule", "schedule"),
    "trainer.optim": ("optimizer", "optimiser", "opt"),
    "trainer.max_grad_norm": ("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val"),
    "trainer.gradient_checkpointing": (
        "checkpointing", "activation_checkpointing", "grad_checkpointing", "grad_ckpt",
    ),
    "trainer.dataloader_num_workers": ("num_workers",),
    "trainer.parallelism": ("fsdp", "deepspeed", "zero", "zero_stage", "strategy"),
    "trainer.context_parallel_size": ("cp", "cp_size", "sequence_parallel_size", "sp_size"),
    "trainer.tensor_parallel_size": ("tp", "tp_size"),
    "trainer.report_to": ("wandb", "tensorboard", "mlflow", "logger", "loggers", "log_with"),
    "trainer.resume_from_checkpoint": ("resume", "resume_from", "ckpt_path", "checkpoint"),
    "trainer.torch_compile": ("compile",),
    "trainer.extra.neftune_noise_alpha": ("neftune", "neftune_alpha"),
    "context_length": (
        "cutoff_len", "max_seq_length", "max_seq_len", "max_length", "seq_len", "seq_length",
        "sequence_len", "sequence_length", "ctx_len", "context", "context_len", "max_model_len",
        "block_size", "n_ctx", "max_context_length", "length",
    ),
    "model.name_or_path": (
        "model_name", "model_name_or_path", "model_path", "base_model", "model_id",
        "pretrained_model_name_or_path", "pretrained", "model.path", "model.name", "model_dir",
    ),
    "model.dtype": ("dtype", "torch_dtype", "precision"),
    "model.attn_implementation": ("attention", "attn", "flash_attn", "flash_attention"),
    "tokenizer.name_or_path": ("tokenizer_name", "tokenizer_path", "tokenizer_name_or_path"),
    "tokenizer.chat_template": ("template", "chat_template", "prompt_template", "conv_template"),
    "data.train": (
        "dataset", "datasets", "data_path", "train_file", "dataset_name", "dataset_path",
        "train_data", "train_dataset", "data_file", "data_files", "data.path", "data.files",
        "train_path", "data_dir", "dataset_dir",
    ),
    "data.eval": (
        "eval_file", "validation_file", "val_file", "eval_data", "eval_dataset", "val_data",
        "eval_data_path", "validation_data", "test_file",
    ),
    "data.eval_examples": ("val_size", "val_set_size", "eval_size", "test_size"),
    "data.max_examples": ("max_samples", "max_train_samples", "num_samples", "num_examples"),
    "data.packing": ("packing", "sample_packing", "neat_packing", "pack"),
    "data.num_proc": ("preprocessing_num_workers", "dataset_num_proc"),
    "adapter.rank": ("lora_r", "lora_rank", "r", "rank", "adapter.r", "lora_dim"),
    "adapter.alpha": ("lora_alpha",),
    "adapter.dropout": ("lora_dropout",),
    "adapter.target_modules": ("lora_target_modules", "lora_target", "target_modules"),
    "adapter.method": (
        "lora", "qlora", "use_lora", "use_peft", "peft", "finetuning_type", "load_in_4bit",
        "train_type", "tuner_type",
    ),
    "rope.method": ("rope_scaling", "rope_type", "rope_method", "rope_scaling_type"),
    "rope.factor": ("scaling_factor", "rope_factor", "rope_scaling_factor", "factor"),
    "rope.theta": ("rope_theta", "theta", "rope_base"),
    "launch.nproc_per_node": (
        "gpus", "num_gpus", "ngpus", "n_gpus", "nproc", "num_processes", "devices", "world_size",
    ),
    "launch.nnodes": ("nodes", "num_nodes", "num_machines"),
    "launch.device": ("device", "use_cpu", "accelerator"),
    "evaluation.max_tokens": ("max_eval_tokens",),
    "hydra.run.dir": ("output_dir", "out_dir", "save_dir", "run_dir", "output", "exp_dir"),
}  # fmt: skip
"""Key -> what it is called elsewhere."""

OUR_NAME = {alias: key for key, aliases in ALIASES.items() for alias in aliases}

VALUES_OF_OUR_NAME = {
    "trainer.parallelism": "fsdp",
    "trainer.report_to": "wandb",
    "adapter.method": "lora",
    "model.attn_implementation": "auto",
    "launch.device": "cpu",
    "data.packing": "auto",
    "model.dtype": "auto",
}
"""Where a value does not mean there what it means elsewhere: the one to begin with."""
