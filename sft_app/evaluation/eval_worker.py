"""One worker process of sft-eval: `python -m sft_app.evaluation.eval_worker DIR/config.yaml`."""

import dataclasses
import logging
import os
import sys
import time
from pathlib import Path

from sft_app.common import console
from sft_app.common.console import guard_console
from sft_app.common.errors import ConfigError
from sft_app.common.processes import die_with_parent
from sft_app.compat.python_internals import SECONDS_AFTER_A_FAILURE, end_process
from sft_app.config.schema.app import AppConfig, load_config
from sft_app.config.schema.launch import Device
from sft_app.records.evaluation_file import read_request, write_evaluation
from sft_app.records.failure import record_failure
from sft_app.records.result import Status

log = logging.getLogger(__name__)


def main(config_path: Path) -> None:
    """Evaluate; a failure is recorded where the parent looks, and ends the process with 1."""
    directory = config_path.parent
    try:
        run_evaluation(load_config(config_path), directory)
    except Exception as error:
        rank = int(os.environ.get("RANK", "0"))
        record_failure(directory, error, rank=rank, status=Status.failed)
        end_process(1, within=SECONDS_AFTER_A_FAILURE)
    end_process(0)


def run_evaluation(config: AppConfig, directory: Path) -> None:
    """Plan, load, measure: leaves eval.json in `directory`."""
    import torch
    import torch.distributed as dist
    import transformers

    from sft_app.common import ranks
    from sft_app.data.prepare_data import prepare_data
    from sft_app.evaluation.measure import evaluate
    from sft_app.evaluation.plan_evaluation import plan_evaluation
    from sft_app.evaluation.work_split import split_over_all_ranks
    from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
    from sft_app.loader.checkpoint.weights_plan import plan_weights
    from sft_app.loader.model.embeddings import fit_model_to_tokenizer
    from sft_app.loader.model.load_model import load_model
    from sft_app.loader.rope.rope_plan import plan_rope
    from sft_app.loader.tokenizer.load_tokenizer import load_tokenizer

    started = time.perf_counter()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    device = torch.device("cpu")
    if config.launch.device is not Device.cpu and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    request = read_request(directory)
    hf_config = load_pretrained_config(config.model)
    if request.own_context:
        config = _at_its_own_length(config, hf_config)
    rope = plan_rope(
        hf_config,
        config.target_length,
        config.rope,
        original_context_length=config.model.original_context_length,
    )
    log.info("%s", rope)
    plan_weights(config.model, hf_config)  # refuses what would not load
    tokenizer, tokenizer_plan = load_tokenizer(config.tokenizer, config.model, hf_config)
    for warning in tokenizer_plan.warnings:
        log.warning("%s", warning)
    data = None
    if request.conversations:
        data = prepare_data(
            config.data,
            tokenizer,
            context_length=config.context_length,
            seed=config.data.split_seed,
        )
    else:
        log.info("evaluation      no held-out conversations: name them with data.eval=...")
    plan = plan_evaluation(config, data, tokenizer, rope, hf_config)
    if not plan:
        raise ConfigError(
            "evaluation: there is nothing to measure; set evaluation.tasks, data.eval or "
            "evaluation.documents."
        )
    model = load_model(config.model, hf_config, rope, device=device, frozen=True)
    fit_model_to_tokenizer(model, tokenizer, tokenizer_plan)
    evaluation = evaluate(plan, model, device, split_over_all_ranks())
    if ranks.is_main():
        about = {
            "model": config.model.name_or_path,
            "context_length": config.context_length,
            "original_context_length": rope.original_context_length,
            "rope_method": rope.method,
            "rope_factor": rope.factor,
            "scoring": config.evaluation.scoring.value,
            "seconds": round(time.perf_counter() - started, 2),
        }
        write_evaluation(directory, evaluation, about)
    if dist.is_initialized():
        dist.destroy_process_group()


def _at_its_own_length(config: AppConfig, hf_config: "object") -> AppConfig:
    """The model as it is: neither extended nor measured at a length of ours."""
    from transformers import PretrainedConfig

    from sft_app.loader.rope.model_context import read_context

    assert isinstance(hf_config, PretrainedConfig)
    text = hf_config.get_text_config(decoder=True)
    length = read_context(text, original=config.model.original_context_length).effective
    if length is None:
        return config
    tokenizer = dataclasses.replace(config.tokenizer, model_max_length=length)
    return dataclasses.replace(config, context_length=length, tokenizer=tokenizer)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sft_app.evaluation.eval_worker DIR/config.yaml")
    guard_console(console.EVALUATION)
    die_with_parent()
    main(Path(sys.argv[1]))
