"""Loading a tokenizer: its segmentation, special tokens and chat template."""
