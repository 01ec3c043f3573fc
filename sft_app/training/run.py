"""The whole run, top to bottom, as every rank executes it."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, set_seed

from sft_app.config.app import AppConfig
from sft_app.data.prepare import PreparedData, prepare_data
from sft_app.evaluation.perplexity import limit_tokens, measure_loss
from sft_app.loader.embeddings import fit_model_to_tokenizer
from sft_app.loader.model import load_model
from sft_app.loader.pretrained_config import load_pretrained_config
from sft_app.loader.rope_plan import plan_rope
from sft_app.loader.save import save_for_serving
from sft_app.loader.tokenizer import load_tokenizer
from sft_app.records.result import Evaluation
from sft_app.records.run_files import METRICS, MODEL, PLAN, TENSORBOARD, write_atomically
from sft_app.training.adapter import merge_adapter
from sft_app.training.arguments import training_arguments
from sft_app.training.checkpoints import find_resume_point
from sft_app.training.console import set_up_logging
from sft_app.training.metrics_file import MetricsFile
from sft_app.training.prepare_model import plan_attention, prepare_model
from sft_app.training.progress import Progress
from sft_app.training.run_record import RunRecord
from sft_app.training.throughput import utilisation
from sft_app.training.trainer import SFTTrainer

log = logging.getLogger(__name__)


def run_training(config: AppConfig, run_dir: Path) -> None:
    """Plan, load, evaluate, train, evaluate, save: leaves a completed result.json in `run_dir`."""
    set_up_logging(run_dir, rank=int(os.environ.get("RANK", "0")))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_dir / TENSORBOARD)
    args = training_arguments(config, run_dir)
    device = args.device  # sets up torch.distributed
    set_seed(config.seed)
    record = RunRecord(run_dir, is_main=args.process_index == 0)
    record.result.world_size = args.world_size
    record.result.device = device_name(device)

    with record.phase("plan"):
        pretrained = load_pretrained_config(config.model)
        rope_plan = plan_rope(
            pretrained,
            config.context_length,
            config.rope,
            original_context_length=config.model.original_context_length,
        )
        log.info("%s", rope_plan)
        attention = plan_attention(config, pretrained, device)
        tokenizer, tokenizer_plan = load_tokenizer(config.tokenizer, config.model, pretrained)
        log.info("%s", tokenizer_plan)
    record.result.rope_method = str(rope_plan.method)
    record.result.rope_factor = rope_plan.factor
    with record.phase("data"):
        data = prepare_data(
            config.data, tokenizer, context_length=config.context_length, seed=config.seed
        )
        log.info("%s", data.statistics)
    if record.is_main:
        plan = {
            "rope": rope_plan.as_dict(),
            "tokenizer": tokenizer_plan.as_dict(),
            "data": data.statistics.as_dict(),
        }
        write_atomically(run_dir / PLAN, json.dumps(plan, indent=2) + "\n")

    with record.phase("load"):
        model = load_model(config.model, pretrained, rope_plan, device=device)
        fit_model_to_tokenizer(model, tokenizer, tokenizer_plan)
        prepared = prepare_model(model, config, attention)
    record.result.num_parameters = model.num_parameters()
    record.result.num_trainable_parameters = model.num_parameters(only_trainable=True)

    heldout = heldout_examples(config, data)
    if config.evaluation.before and heldout:
        with record.phase("evaluate_before"):
            record.result.evaluation_before = evaluate(config, model, heldout, tokenizer, device)
            log.info("Held-out loss before training: %s", describe(record.result.evaluation_before))

    trainer = SFTTrainer(
        prepared=prepared,
        args=args,
        train_dataset=data.train,
        data_collator=data.collate,
        processing_class=tokenizer,
        callbacks=[Progress(), MetricsFile(run_dir / METRICS)],
    )
    trainer.remove_callback(PrinterCallback)
    with record.phase("train"):
        train(trainer, config, run_dir, record)
    record.note_peak_memory(device)
    model = merge_adapter(prepared.model)

    if config.evaluation.after and heldout:
        with record.phase("evaluate_after"):
            record.result.evaluation_after = evaluate(config, model, heldout, tokenizer, device)
            log.info("Held-out loss after training: %s", describe(record.result.evaluation_after))
    with record.phase("save"):
        if record.is_main:
            save_for_serving(model, tokenizer, rope_plan, tokenizer_plan, run_dir / MODEL)
        trainer.accelerator.wait_for_everyone()
    record.complete()
    trainer.accelerator.end_training()


def train(trainer: SFTTrainer, config: AppConfig, run_dir: Path, record: RunRecord) -> None:
    """Train from the start or from a checkpoint, and note what it took."""
    resume_point = find_resume_point(config.trainer.resume_from_checkpoint, run_dir)
    if resume_point is not None:
        log.info("Resuming from %s", resume_point)
    announce(trainer)
    trainer.train(resume_from_checkpoint=str(resume_point) if resume_point else None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = record.result
    result.resumed_from = str(resume_point) if resume_point else None
    result.steps = trainer.state.global_step
    result.epochs = round(trainer.state.epoch or 0.0, 4)
    result.tokens = trainer.tokens
    if trainer.training_seconds:
        real = trainer.tokens.total - trainer.tokens.padding
        result.tokens_per_second = round(real / trainer.training_seconds, 2)
        share = utilisation(
            trainer.flops / trainer.args.world_size,
            trainer.training_seconds,
            datasheet_rate=trainer.datasheet_rate,
            measured_rate=trainer.measured_rate,
        )
        result.model_flops_utilisation = share.of_datasheet
        result.measured_matmul_utilisation = share.of_measured
    result.train_loss_first = losses[0] if losses else None
    result.train_loss_last = losses[-1] if losses else None


def announce(trainer: SFTTrainer) -> None:
    args: TrainingArguments = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    log.info(
        "Training: %d rows a step (%d per device x %d accumulated x %d processes), %s.",
        rows,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
        f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs",
    )


def heldout_examples(config: AppConfig, data: PreparedData) -> list[dict[str, torch.Tensor]]:
    """The held-out examples that are evaluated: the same ones before and after."""
    if data.eval is None:
        return []
    count = len(data.eval)
    if config.evaluation.max_examples is not None:
        count = min(count, config.evaluation.max_examples)
    return limit_tokens([data.eval[i] for i in range(count)], config.evaluation.max_tokens)


def evaluate(
    config: AppConfig,
    model: PreTrainedModel,
    heldout: list[dict[str, torch.Tensor]],
    tokenizer: Any,
    device: torch.device,
) -> Evaluation:
    measurement = measure_loss(
        model,
        heldout,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=config.evaluation.batch_size,
        device=device,
    )
    return Evaluation(heldout=measurement)


def describe(evaluation: Evaluation) -> str:
    assert evaluation.heldout is not None
    m = evaluation.heldout
    return f"{m.loss:.4f} (perplexity {m.perplexity:.3f}, {m.tokens:,} tokens)"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
