"""What is known of a model's length beyond its configuration, and of those who read it.

Facts from model cards and from the code of serving engines, as sentences for the plan: nothing here
changes a decision.
"""

from transformers import PretrainedConfig

from sft_app.loader.rope.model_context import ModelContext
from sft_app.loader.rope.position_plan import PositionPlan

_CARDS = {
    # Stated length -> (base of the card's YaRN, factor, who)
    ("qwen3", 40_960): (32_768, 4, "the card of Qwen3"),
    ("qwen3_moe", 40_960): (32_768, 4, "the card of Qwen3"),
    ("qwen2", 32_768): (32_768, 4, "the card of Qwen2 and Qwen2.5"),
}


def contradictions(context: ModelContext, tokenizer_length: int | None) -> tuple[str, ...]:
    """Warn where the tokenizer's length says that the factor is in the stated length already.

    deepseek-coder and Together's Llama-2-32K scale linearly and state the length afterwards; by
    the convention that most models and all engines follow, it would be the length before.
    """
    if context.overridden or context.rope_type not in ("linear", "dynamic"):
        return ()
    original, effective, factor = context.original, context.effective, context.factor
    if not (original and effective and factor and tokenizer_length):
        return ()
    if tokenizer_length >= effective or tokenizer_length > original:
        return ()
    base = round(original / factor)
    return (
        f"max_position_embeddings {original:,} times the factor {factor:g} would be {effective:,} "
        f"tokens, and the tokenizer says {tokenizer_length:,}: if the factor is in already (as in "
        f"deepseek-coder), set model.original_context_length={base}.",
    )


def published_advice(text: PretrainedConfig, context: ModelContext, length: int) -> tuple[str, ...]:
    """Say what a model's card documents beyond the length that its configuration states."""
    card = _CARDS.get((text.model_type, context.effective or 0))
    if card is None or context.rope_type != "default" or length <= (context.effective or 0):
        return ()
    base, factor, who = card
    return (
        f"{who} documents YaRN with factor {factor} on {base:,} for up to {base * factor:,} "
        f"tokens: rope=yarn model.original_context_length={base}.",
    )


def reader_warnings(plan: PositionPlan, context: ModelContext) -> tuple[str, ...]:
    """Name engines that are known to read otherwise what will be saved."""
    notes = []
    types = _rope_types(plan)
    if "proportional" in types and plan.factor and plan.factor > 1:
        notes.append(
            f"vLLM's class for this family takes no factor: it would turn as before, not "
            f"{plan.factor:g} times slower; serve it with transformers, or stay within "
            f"{context.original:,} tokens."
        )
    effective, original, saved = plan.effective or 0, context.original, plan.max_position_embeddings
    if "dynamic" in types and original and effective > original:
        notes.append(
            "vLLM's cache for dynamic has fewer rows than the length that it derives: start it "
            f"with --max-model-len {original}."
        )
    if plan.changed and "linear" in types and saved and effective > saved:
        notes.append(
            f"a GGUF file that llama.cpp's converter makes of it will state the original {saved:,} "
            f"tokens, and llama-server cap requests there: sft-export gguf states {effective:,}."
        )
    return tuple(notes)


def _rope_types(plan: PositionPlan) -> set[str]:
    parameters = plan.rope_parameters or {}
    sets = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
    return {str(p.get("rope_type", "default")) for p in sets}
