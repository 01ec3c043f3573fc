"""Judges answers: by one forward over prompt and answer, or by what a model generates."""
