"""Measures what a language model makes of text; knows no trainer. Needs torch."""
