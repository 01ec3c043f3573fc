"""What a configuration builds: the class of transformers, and the model without its weights."""
