"""The typed configuration. Imports nothing else of sft_app, and neither torch nor transformers."""
