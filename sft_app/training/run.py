"""The whole run, top to bottom, as every rank executes it."""

import json
import logging
import math
import os
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments, set_seed

from sft_app.config.adapter import AdapterMethod
from sft_app.config.app import AppConfig
from sft_app.data.prepare import PreparedData
from sft_app.evaluation.heldout import HeldOut, describe, evaluate, held_out
from sft_app.loader.embeddings import fit_model_to_tokenizer
from sft_app.loader.model import load_model
from sft_app.loader.save import save_for_serving
from sft_app.records.result import Evaluation
from sft_app.records.run_files import METRICS, MODEL, PLAN, PROFILE, TENSORBOARD, write_atomically
from sft_app.training.adapter import merge_adapter, merge_gathered, plain_model
from sft_app.training.arguments import training_arguments
from sft_app.training.checkpoints import find_resume_point
from sft_app.training.console import set_up_logging
from sft_app.training.full_precision import bring_to_device, merge_into_full_precision
from sft_app.training.metrics_file import MetricsFile
from sft_app.training.muon import muon_for
from sft_app.training.plans import ModelPlans, plan_as_dict, plan_data, plan_model
from sft_app.training.prepare_model import prepare_model, reads_on_host
from sft_app.training.profiling import ProfileSteps
from sft_app.training.progress import Progress
from sft_app.training.run_record import RunRecord
from sft_app.training.sharding import gather_weights
from sft_app.training.throughput import utilisation
from sft_app.training.time_estimate import estimate_time
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
        plans = plan_model(config, device)
        log.info("%s", plans)
    record.result.rope_method = plans.rope.method
    record.result.rope_factor = plans.rope.factor
    with record.phase("data"):
        data = plan_data(config, plans.tokenizer)
        log.info("%s", data.statistics)
    if record.is_main:
        text = json.dumps(plan_as_dict(plans, data), indent=2)
        write_atomically(run_dir / PLAN, text + "\n")

    heldout = held_out(config, data, plans.tokenizer)
    if not heldout and (config.evaluation.before or config.evaluation.after):
        log.warning("There are too few conversations to hold any out: nothing is evaluated.")
    with record.phase("load"):
        model = load_model(
            config.model,
            plans.pretrained,
            plans.rope,
            device=device,
            on_host_of_rank_0=reads_on_host(config),
        )
        fit_model_to_tokenizer(model, plans.tokenizer, plans.tokenizer_plan)
    quantised = config.adapter.method is AdapterMethod.qlora
    measured = partial(measure, config=config, heldout=heldout, plans=plans, device=device)
    # In full precision, as what is saved: quantised, the base would seem to have learned.
    if quantised and config.evaluation.before and heldout and bring_to_device(model, device):
        with record.phase("evaluate_before"):
            record.result.evaluation_before = measured(model, "before")
    with record.phase("prepare"):
        prepared = prepare_model(
            model, config, plans.attention, device, plans.tokenizer_plan.added_token_ids
        )
    record.result.num_parameters = model.num_parameters()
    record.result.num_trainable_parameters = model.num_parameters(only_trainable=True)
    if not quantised and config.evaluation.before and heldout:
        with record.phase("evaluate_before"):
            record.result.evaluation_before = measured(prepared.model, "before")

    trainer = SFTTrainer(
        prepared=prepared,
        args=args,
        train_dataset=data.train,
        data_collator=data.collate,
        processing_class=plans.tokenizer,
        callbacks=[Progress(), MetricsFile(run_dir / METRICS)],
        optimizer_cls_and_kwargs=(
            muon_for(model, config.trainer) if config.trainer.optim == "muon" else None
        ),
    )
    trainer.remove_callback(PrinterCallback)
    if config.trainer.profile:
        trainer.add_callback(ProfileSteps(run_dir / PROFILE))
    with record.phase("train"):
        announce(trainer, data)
        train(trainer, config, run_dir, record)
    record.note_peak_memory(device)
    trainer.let_go()
    # Saved before it is evaluated: what was trained is safe, whatever the evaluation needs.
    with record.phase("save"):
        if quantised:
            model = merge_into_full_precision(prepared.model, config, plans, device)
        else:
            model = prepared.model if prepared.sharded else merge_adapter(prepared.model)
        weights = gather_weights(prepared.model) if prepared.sharded else None
        if record.is_main:
            save_for_serving(
                plain_model(model),
                plans.tokenizer,
                plans.rope,
                plans.tokenizer_plan,
                run_dir / MODEL,
                state_dict=merge_gathered(prepared.model, weights) if weights else None,
            )
        trainer.accelerator.wait_for_everyone()
    if config.evaluation.after and heldout and (not quantised or bring_to_device(model, device)):
        with record.phase("evaluate_after"):
            record.result.evaluation_after = measured(model, "after")
    record.complete()
    trainer.accelerator.end_training()


def train(trainer: SFTTrainer, config: AppConfig, run_dir: Path, record: RunRecord) -> None:
    """Train from the start or from a checkpoint, and note what it took."""
    resume_point = find_resume_point(config.trainer.resume_from_checkpoint, run_dir)
    if resume_point is not None:
        log.info("Resuming from %s", resume_point)
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
    if losses:
        quarter = math.ceil(len(losses) / 4)
        result.train_loss_first = sum(losses[:quarter]) / quarter
        result.train_loss_last = sum(losses[-quarter:]) / quarter


def announce(trainer: SFTTrainer, data: PreparedData) -> None:
    """Say how many steps there are, of what, and about how long they take."""
    args = trainer.args
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = num_steps(args, data)
    estimate = estimate_time(
        trainer.prepared.shape,
        matmul_rate=trainer.measured_rate,
        row_lengths=data.train.lengths,
        supervised_share=data.statistics.train.supervised_tokens
        / data.statistics.train.used_tokens,
        num_rows=steps * rows,
    )
    trainer.measured_rate = estimate.matmul_rate
    log.info(
        "training        %d steps of %d rows (%d per device x %d accumulated x %d processes), %s",
        steps,
        rows * args.world_size,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
        estimate,
    )


def num_steps(args: TrainingArguments, data: PreparedData) -> int:
    """Optimizer steps of the whole run, as the Trainer counts them."""
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(len(data.train) / (args.per_device_train_batch_size * args.world_size))
    per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return math.ceil(per_epoch * args.num_train_epochs)


def measure(
    model: nn.Module,
    when: str,
    *,
    config: AppConfig,
    heldout: HeldOut,
    plans: ModelPlans,
    device: torch.device,
) -> Evaluation:
    """Evaluate, and say what came out."""
    evaluation = evaluate(config, model, heldout, plans.tokenizer, device)
    for what, how_much in describe(evaluation):
        log.info("%-16s%s %s training", what, how_much, when)
    return evaluation


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
