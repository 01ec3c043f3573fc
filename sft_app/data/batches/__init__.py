"""From tokenised examples to batches: chosen, fitted to the context, packed, collated."""
