"""The whole run, top to bottom, as every rank executes it."""

import json
import logging
import math
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, set_seed

from sft_app.config.adapter import AdapterMethod
from sft_app.config.app import AppConfig
from sft_app.config.parallel_support import check_one_cut
from sft_app.data.prepare import PreparedData
from sft_app.evaluation.heldout import describe, evaluate, held_out
from sft_app.loader.embeddings import fit_model_to_tokenizer
from sft_app.loader.model import load_model
from sft_app.loader.save import save_for_serving
from sft_app.records.result import Evaluation
from sft_app.records.run_files import METRICS, MODEL, PLAN, PROFILE, TENSORBOARD, write_atomically
from sft_app.training.adapter import merge_adapter, merge_gathered, plain_model
from sft_app.training.arguments import training_arguments
from sft_app.training.checkpoints import find_resume_point
from sft_app.training.compile_layers import CompileLayers, check_compiler
from sft_app.training.console import set_up_logging
from sft_app.training.context_parallel import form_context_group
from sft_app.training.full_precision import bring_to_device, merge_into_full_precision
from sft_app.training.metrics_file import MetricsFile
from sft_app.training.muon import muon_for
from sft_app.training.plans import plan_as_dict, plan_data, plan_model
from sft_app.training.precision import round_weights
from sft_app.training.prepare_model import prepare_model, reads_on_host
from sft_app.training.profiling import ProfileSteps
from sft_app.training.progress import Progress
from sft_app.training.run_record import RunRecord
from sft_app.training.sharding import gather_weights
from sft_app.training.time_estimate import estimate_time
from sft_app.training.trainer import SFTTrainer

log = logging.getLogger(__name__)


def run_training(config: AppConfig, run_dir: Path) -> None:
    """Plan, load, evaluate, train, evaluate, save: leaves a completed result.json in `run_dir`."""
    set_up_logging(run_dir, rank=int(os.environ.get("RANK", "0")))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_dir / TENSORBOARD)
    args = training_arguments(config, run_dir)
    device = args.device  # sets up torch.distributed
    context = form_context_group(config.trainer.context_parallel_size, device)
    check_one_cut(config.trainer.tensor_parallel_size, args.world_size)
    set_seed(config.seed)
    record = RunRecord(run_dir, is_main=args.process_index == 0)
    record.result.world_size = args.world_size
    record.result.device = device_name(device)

    with record.phase("plan"):
        plans = plan_model(config, device)
        log.info("%s", plans)
        if config.trainer.torch_compile:
            check_compiler(device)
    precision = plans.precision
    record.result.rope_method = plans.rope.method
    record.result.rope_factor = plans.rope.factor
    with record.phase("data"):
        data = plan_data(config, plans.tokenizer)
        log.info("%s", data.statistics)
    if record.is_main:
        text = json.dumps(plan_as_dict(plans, data), indent=2)
        write_atomically(run_dir / PLAN, text + "\n")

    with record.phase("load"):
        model = load_model(
            config.model,
            plans.pretrained,
            plans.rope,
            device=device,
            frozen=config.adapter.method is not AdapterMethod.none,
            on_host_of_rank_0=reads_on_host(config),
            tensor_parallel_size=config.trainer.tensor_parallel_size,
        )
        fit_model_to_tokenizer(model, plans.tokenizer, plans.tokenizer_plan)
        with precision.computing(device):  # what is proven is what training will do
            prepared = prepare_model(
                model,
                config,
                plans.attention,
                device,
                new_token_ids=plans.tokenizer_plan.added_token_ids,
                loss_plan=plans.loss,
                context=context,
            )
    record.result.num_parameters = model.num_parameters()
    record.result.num_trainable_parameters = model.num_parameters(only_trainable=True)

    quantised = config.adapter.method is AdapterMethod.qlora
    if quantised and config.evaluation.before and config.evaluation.after:
        log.info(
            "evaluation      before training of the model in 4 bits, after it of the saved one"
        )
    heldout = held_out(config, data, plans.tokenizer)
    if not heldout and (config.evaluation.before or config.evaluation.after):
        log.warning("There are too few conversations to hold any out: nothing is evaluated.")
    if config.evaluation.before and heldout:
        with record.phase("evaluate_before"), precision.computing(device):
            record.result.evaluation_before = evaluate(
                config, prepared.model, heldout, plans.tokenizer, device
            )
            log_evaluation(record.result.evaluation_before, "before")

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
    if config.trainer.torch_compile:
        trainer.add_callback(CompileLayers(model))
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
        if isinstance(model, PreTrainedModel):
            round_weights(model, precision.saved)
        weights = gather_weights(prepared.model) if prepared.sharded else None
        if record.is_main:
            save_for_serving(
                plain_model(model),
                plans.tokenizer,
                plans.rope,
                plans.tokenizer_plan,
                run_dir / MODEL,
                dtype=precision.saved,
                state_dict=merge_gathered(prepared.model, weights) if weights else None,
            )
        trainer.accelerator.wait_for_everyone()
    if config.evaluation.after and heldout:
        if quantised and not bring_to_device(model, device):
            log.warning(
                "evaluation.after is left out: the saved model has full precision, and does not "
                "fit this device."
            )
        else:
            with record.phase("evaluate_after"), precision.computing(device):
                record.result.evaluation_after = evaluate(
                    config, model, heldout, plans.tokenizer, device
                )
                log_evaluation(record.result.evaluation_after, "after")
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
    count = trainer.count
    result.tokens = count.tokens
    if count.seconds:
        real = count.tokens.total - count.tokens.padding
        result.tokens_per_second = round(real / count.seconds, 2)
        share = count.overall(trainer.args.world_size)
        result.model_flops_utilisation = share.of_datasheet
        result.measured_matmul_utilisation = share.of_measured
    if losses:
        quarter = math.ceil(len(losses) / 4)
        result.train_loss_first = sum(losses[:quarter]) / quarter
        result.train_loss_last = sum(losses[-quarter:]) / quarter


def announce(trainer: SFTTrainer, data: PreparedData) -> None:
    """Say how many steps there are, of what, and about how long they take."""
    args, groups = trainer.args, trainer.share.count
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = num_steps(args, data, groups)
    estimate = estimate_time(
        trainer.prepared.shape,
        matmul_rate=trainer.count.measured_rate,
        row_lengths=data.train.lengths,
        supervised_share=data.statistics.train.supervised_tokens
        / data.statistics.train.used_tokens,
        num_rows=steps * rows * groups / args.world_size,
    )
    trainer.count.measured_rate = estimate.matmul_rate
    log.info(
        "training        %d steps of %d rows (%d per device x %d accumulated x %s), %s",
        steps,
        rows * groups,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        trainer.share,
        estimate,
    )


def num_steps(args: TrainingArguments, data: PreparedData, groups: int) -> int:
    """Optimizer steps of the whole run, as the Trainer counts them.

    `groups`: processes, or groups of processes, that read rows of their own.
    """
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(len(data.train) / (args.per_device_train_batch_size * groups))
    per_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return math.ceil(per_epoch * args.num_train_epochs)


def log_evaluation(evaluation: Evaluation, when: str) -> None:
    for what, how_much in describe(evaluation):
        log.info("%-16s%s %s training", what, how_much, when)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
