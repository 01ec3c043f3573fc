"""The whole run, top to bottom, as every rank executes it."""

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, set_seed

from sft_app.common import ranks
from sft_app.common.secrets import hide_in_texts
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.check_parallel import check_tensor_parallel_size
from sft_app.data.prepare_data import PreparedData
from sft_app.data.statistics_text import describe_statistics
from sft_app.evaluation.work_split import split_over_all_ranks
from sft_app.loader.model.embeddings import changes_embeddings, fit_model_to_tokenizer
from sft_app.loader.model.load_model import load_model
from sft_app.records.run_files import METRICS, MODEL, PLAN, PROFILE, TENSORBOARD, write_atomically
from sft_app.records.saved_model import SAVING
from sft_app.training.arguments import training_arguments
from sft_app.training.callbacks.compile_layers import CompileLayers, check_compiler
from sft_app.training.callbacks.metrics_file import MetricsFile
from sft_app.training.callbacks.offload_activations import OffloadActivations
from sft_app.training.callbacks.profiler import ProfileSteps
from sft_app.training.callbacks.progress import Progress
from sft_app.training.callbacks.result_file import ResultFile
from sft_app.training.guards.loss_spikes import SpikeRule
from sft_app.training.guards.stop_signals import Interrupted
from sft_app.training.guards.watchdog import Watchdog, expected_within
from sft_app.training.heldout_trainer import HeldoutMeasure
from sft_app.training.model_plan import ModelPlans, plan_as_dict, plan_data, plan_model
from sft_app.training.optim.muon import muon_for
from sft_app.training.optim.supervised_budget import limit_to_budget
from sft_app.training.parallel.context_parallel import init_context_parallel_group
from sft_app.training.parallel.distribute_weights import stored_weights
from sft_app.training.parallel.evaluation_split import evaluation_split
from sft_app.training.parallel.fsdp import wants_shards
from sft_app.training.parallel.loading_plan import plan_loading
from sft_app.training.parallel.unused_parameters import leaves_parameters_unused
from sft_app.training.parallel.verify_tensor_parallel import verify_cut_weights
from sft_app.training.peft.lora import plain_model
from sft_app.training.peft.merge_qlora import bring_to_device
from sft_app.training.prepare_model import PreparedModel, prepare_model, reads_on_host
from sft_app.training.run_evaluations import (
    heldout_measure,
    measure,
    plan_heldout,
    plan_what_to_measure,
)
from sft_app.training.run_record import RunRecord
from sft_app.training.saving.best_step import best_of
from sft_app.training.saving.check_room import check_room
from sft_app.training.saving.checkpoints import agree_on_resume_point, set_newer_aside
from sft_app.training.saving.save_final_model import save_final_model
from sft_app.training.saving.verify_final_model import verify_final_model, write_expected
from sft_app.training.screen.announce import announce, say_plans
from sft_app.training.screen.log_setup import DETAILS, set_up_logging
from sft_app.training.sft_trainer import SFTTrainer

log = logging.getLogger(__name__)
details = logging.getLogger(DETAILS)


def run_training(config: AppConfig, run_dir: Path) -> None:
    """Plan, load, evaluate, train, save, evaluate: leaves a completed result.json in `run_dir`."""
    set_up_logging(run_dir, rank=int(os.environ.get("RANK", "0")))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_dir / TENSORBOARD)
    args = training_arguments(config, run_dir)
    device = args.device  # sets up torch.distributed
    context = init_context_parallel_group(config.trainer.context_parallel_size, device)
    check_tensor_parallel_size(config.trainer.tensor_parallel_size, args.world_size)
    set_seed(config.seed)
    record = RunRecord(run_dir, is_main=args.process_index == 0)
    record.result.world_size = args.world_size
    record.result.device = device_name(device)

    with record.phase("plan"):
        plans = plan_model(config, device)
        details.info("%s", plans)
        if config.trainer.torch_compile:
            check_compiler(device)
    record.result.rope_method = plans.rope.method
    record.result.rope_factor = plans.rope.factor
    record.result.rope_warnings = list(plans.rope.warnings)
    with record.phase("data"):
        data = plan_data(config, plans.tokenizer, plans.packing)
        details.info("%s", data.statistics)
    say_plans(config, plans, data)
    limit_to_budget(args, config, data)
    if record.is_main:
        write_plan(plans, data, run_dir)
        check_room(config, plans, run_dir)
    measured = plan_what_to_measure(config, plans, data)
    heldout = plan_heldout(config, plans, data)
    is_known = record.result.evaluation_before is not None  # from a run that this one prolongs
    evaluates_before = bool(measured) and config.evaluation.before and not is_known
    evaluates_after = bool(measured) and config.evaluation.after

    limited = partial(expected_within, config.launch.model_timeout, run_dir, args.process_index)
    with record.phase("load"), limited():
        model = load(config, plans, device)
    quantised = config.adapter.method is AdapterMethod.qlora
    # What is quantised is evaluated from full precision, and so whole on every rank.
    split = (
        split_over_all_ranks()
        if quantised
        else evaluation_split(context, config.trainer.tensor_parallel_size)
    )
    # In full precision, as what is saved: quantised, the base would seem to have learned.
    if evaluates_before and quantised and bring_to_device(model, device):
        with record.phase("evaluate_before"):
            record.result.evaluation_before = measure(
                model, "before", measured, plans, device, split
            )
    with (
        record.phase("prepare"),
        limited(),
        plans.precision.computing(device),
    ):  # verified as it will train
        prepared = prepare_model(
            model,
            config,
            device,
            packing=plans.packing,
            attention=plans.attention,
            loss_plan=plans.loss,
            tiling=plans.tiling,
            new_token_ids=plans.tokenizer_plan.new_row_ids,
            context=context,
        )
    if prepared.packing != plans.packing:
        plans = replace(plans, packing=prepared.packing)
        data = plan_data(config, plans.tokenizer, plans.packing)
        log.info("%s", describe_statistics(data.statistics))
        if record.is_main:
            write_plan(plans, data, run_dir)
    record.result.num_parameters = model.num_parameters()
    record.result.num_trainable_parameters = model.num_parameters(only_trainable=True)
    if evaluates_before and not quantised:
        with record.phase("evaluate_before"):
            record.result.evaluation_before = measure(
                prepared.model, "before", measured, plans, device, split
            )

    trainer = make_trainer(
        prepared,
        config,
        args,
        plans,
        data,
        run_dir,
        heldout_measure(heldout, prepared, config, plans, device),
    )
    trainer.add_callback(ResultFile(record))
    trainer.add_callback(Watchdog(run_dir, args.process_index, config.launch.timeout))
    with record.phase("train"):
        announce(trainer, data, plans.memory.total)
        train(trainer, config, run_dir, record)
    if trainer.stopped_by:
        raise Interrupted(trainer.stopped_by, trainer.state.global_step)
    record.note_peak_memory(device)
    trainer.release_training_state()
    # Saved before it is evaluated: what was trained is safe, whatever the evaluation needs.
    with record.phase(SAVING), limited():
        final = save_final_model(prepared, config, plans, run_dir / MODEL, device)
        write_expected(
            final, plans, run_dir, sharded=prepared.sharded and not quantised, on_rank_0=quantised
        )
    if evaluates_after and (not quantised or bring_to_device(plain_model(final), device)):
        with record.phase("evaluate_after"):
            record.result.evaluation_after = measure(final, "after", measured, plans, device, split)
    if config.evaluation.verify_saved:
        with record.phase("verify"):
            record.result.verification = verify_final_model(
                run_dir, trust_remote_code=config.model.trust_remote_code
            )
    record.complete()
    trainer.accelerator.end_training()


def write_plan(plans: ModelPlans, data: PreparedData, run_dir: Path) -> None:
    """Write plan.json."""
    text = json.dumps(hide_in_texts(plan_as_dict(plans, data)), indent=2)
    write_atomically(run_dir / PLAN, text + "\n")


def load(config: AppConfig, plans: ModelPlans, device: torch.device) -> PreTrainedModel:
    """Load the model of the plans, with as many embeddings as the tokenizer needs."""
    loading, tokenizer_plan = None, plans.tokenizer_plan
    if wants_shards(config.trainer) and config.adapter.method is not AdapterMethod.qlora:
        loading = plan_loading(plans.weights, plans.rope)
        log.info("%s", loading)
    model = load_model(
        config.model,
        plans.pretrained,
        plans.rope,
        device=device,
        attention=plans.attention.name,
        frozen=config.adapter.method is not AdapterMethod.none,
        on_host_of_rank_0=reads_on_host(config),
        tensor_parallel_size=config.trainer.tensor_parallel_size,
        float32_names=plans.precision.float32_names,
        stored=loading.stored if loading else None,
        with_embeddings=changes_embeddings(tokenizer_plan),
    )
    if config.trainer.tensor_parallel_size > 1 and isinstance(plans.weights.stored, str):
        whole = load_model(
            config.model,
            plans.pretrained,
            plans.rope,
            device=device,
            on_host_of_rank_0=True,
            float32_names=plans.precision.float32_names,
        )
        verify_cut_weights(model, whole, device)
    unread = stored_weights(model).keys()
    fit_model_to_tokenizer(model, plans.tokenizer, tokenizer_plan)
    assert stored_weights(model).keys() == unread, "a weight was changed before it was read"
    return model


def make_trainer(
    prepared: PreparedModel,
    config: AppConfig,
    args: TrainingArguments,
    plans: ModelPlans,
    data: PreparedData,
    run_dir: Path,
    heldout: HeldoutMeasure | None,
) -> SFTTrainer:
    """Make the trainer, with the callbacks that write the run's files."""
    model = plain_model(prepared.model)
    if ranks.is_distributed() and not prepared.sharded and args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = leaves_parameters_unused(model, prepared.model)
    trainer = SFTTrainer(
        prepared=prepared,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.eval if heldout is not None else None,
        heldout=heldout,
        data_collator=data.collate,
        position_target=config.data.position_target,
        on_nonfinite=config.trainer.on_nonfinite,
        on_loss_spike=SpikeRule(
            action=config.trainer.on_loss_spike,
            threshold=config.trainer.loss_spike_threshold,
            window=config.trainer.loss_spike_window,
            max_rewinds=config.trainer.max_rewinds,
        ),
        processing_class=plans.tokenizer,
        callbacks=[Progress(), MetricsFile(run_dir / METRICS)],
        optimizer_cls_and_kwargs=(
            muon_for(model, config.trainer) if config.trainer.optim == "muon" else None
        ),
    )
    trainer.remove_callback(PrinterCallback)
    if config.trainer.gradient_checkpointing_kwargs.get("offload"):
        trainer.add_callback(OffloadActivations(model, args.device))
    if config.trainer.torch_compile:
        trainer.add_callback(CompileLayers(model))
    if config.trainer.profile:
        trainer.add_callback(ProfileSteps(run_dir / PROFILE))
    return trainer


def train(trainer: SFTTrainer, config: AppConfig, run_dir: Path, record: RunRecord) -> None:
    """Train from the start or from a checkpoint, and note what it took."""
    found = agree_on_resume_point(config.trainer.resume_from_checkpoint, run_dir)
    result = record.result
    result.resumed_from = str(found.checkpoint) if found.checkpoint else None
    result.rejected_checkpoints = list(found.rejected)
    record.write()
    if record.is_main:
        set_newer_aside(run_dir, found.checkpoint)
    if found.checkpoint is not None:
        log.info("resume          from %s", found.checkpoint)
    with trainer.guard.signals.noticed():
        trainer.train(resume_from_checkpoint=result.resumed_from)
    trainer.check_all_steps_taken()
    result.weights_of_step = trainer.state.global_step
    if (best := best_of(trainer.measured)) is not None:
        result.best_step, result.best_heldout_loss = best.step, best.loss
        result.stopped_early = trainer.has_stopped_early
        if config.trainer.load_best_model_at_end and not trainer.stopped_by:
            result.weights_of_step = trainer.load_best()
    if not trainer.stopped_by:
        trainer.settle_weights()
    losses = losses_of_steps(trainer.state.log_history)
    result.skipped_steps = trainer.guard.skipped_steps
    result.rewinds = trainer.spikes.rewinds
    result.steps = trainer.state.global_step
    result.epochs = round(trainer.state.epoch or 0.0, 4)
    if trainer.count.seconds:
        share = trainer.count.overall(trainer.args.world_size)
        result.model_flops_utilisation = share.of_datasheet
        result.measured_matmul_utilisation = share.of_measured
    if losses:
        quarter = math.ceil(len(losses) / 4)
        result.train_loss_first = sum(losses[:quarter]) / quarter
        result.train_loss_last = sum(losses[-quarter:]) / quarter


def losses_of_steps(log_history: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return the loss of every step, as it was logged: a line is the mean since the one before.

    Lines stand for steps of different numbers: one is logged before each checkpoint and each
    measurement as well. What is not finite is of steps that were left out.
    """
    losses: list[float] = []
    before = 0
    for entry in log_history:
        if "loss" in entry:
            steps = max(1, int(entry["step"]) - before)
            before = int(entry["step"])
            losses += [float(entry["loss"])] * (steps if math.isfinite(entry["loss"]) else 0)
    return losses


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
