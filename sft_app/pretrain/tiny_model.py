"""The model, and its pre-training on rows of tokens."""

import math
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from sft_app.pretrain.settings import PretrainSettings
from sft_app.pretrain.training_rows import TrainingRows

WARMUP_STEPS = 20
LOG_STEPS = 25


def build_model(settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build a Llama with random weights, positions up to the settings' short context."""
    set_seed(settings.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=settings.intermediate_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            max_position_embeddings=settings.context_length,
            rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(model: LlamaForCausalLM, rows: TrainingRows, settings: PretrainSettings) -> float:
    """Train on batches of `rows`; return the last steps' mean loss."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _rate(s, settings.num_steps))
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(1, settings.num_steps + 1):
        batch = rows.batch(step)
        logits = model(input_ids=batch.tokens, use_cache=False).logits
        loss = batch.loss(logits)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % LOG_STEPS == 0:
            left = (time.perf_counter() - started) / step * (settings.num_steps - step)
            mean = sum(losses[-LOG_STEPS:]) / LOG_STEPS
            found = batch.share_right(logits)
            answers = "" if math.isnan(found) else f"  answers {found:.0%}"
            progress = f"step {step}/{settings.num_steps}  loss {mean:.3f}{answers}"
            print(f"{progress}  {left:.0f} s left", flush=True)
    tail = losses[-LOG_STEPS:]
    return sum(tail) / len(tail)


def _rate(step: int, num_steps: int) -> float:
    """Return the share of the learning rate: linear warmup, then a cosine down to a tenth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))
