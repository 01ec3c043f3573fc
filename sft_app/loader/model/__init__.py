"""Loading a model, fitting it to its tokenizer, and saving it for others to serve."""
