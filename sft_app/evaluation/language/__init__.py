"""Measures the loss of text: held-out conversations, by length, by position, LongPPL."""
