"""From a configuration to a loaded model and tokenizer: plans first, then weights, then checks."""
