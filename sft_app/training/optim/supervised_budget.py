"""Equal learning at every context length of a sweep: as many steps as its supervised tokens take.

Short contexts lose more of a conversation (an answer that does not fit is cut), so that equal
numbers of tokens hold different numbers of supervised ones.
"""

from transformers import TrainingArguments

from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.sweep import Budget
from sft_app.data.prepare_data import PreparedData


def limit_to_budget(args: TrainingArguments, config: AppConfig, data: PreparedData) -> None:
    """Set `args.max_steps` to what sweep.supervised_tokens takes, where the sweep counts so."""
    target = config.sweep.supervised_tokens
    if config.sweep.budget is not Budget.supervised or target is None:
        return
    trainer = config.trainer
    groups = args.world_size // (trainer.context_parallel_size * trainer.tensor_parallel_size)
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * groups
    args.max_steps = steps_for(
        target,
        supervised_tokens=data.statistics.train.supervised_tokens,
        num_rows=len(data.train),
        rows_per_step=rows,
    )


def steps_for(target: int, *, supervised_tokens: int, num_rows: int, rows_per_step: int) -> int:
    """Return the optimizer steps that see about `target` supervised tokens, at least one.

    `supervised_tokens` are those of all `num_rows` rows; a step takes `rows_per_step` of them.
    """
    per_step = supervised_tokens / num_rows * rows_per_step
    return max(1, round(target / per_step))
