"""Checkpoints, and the final model: written aside, checked, and read again."""
