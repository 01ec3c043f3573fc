"""What every other part may use: errors, processes, ranks. Imports nothing of sft_app."""
