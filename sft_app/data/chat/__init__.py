"""From records to token ids with labels, by the tokenizer's own chat template."""
