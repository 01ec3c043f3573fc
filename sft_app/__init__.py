"""Fine-tune causal language models on chat data at contexts longer than they were trained for."""

__version__ = "0.2.0"
