"""Optimizers and schedules of our own, and how long a budget of tokens lasts."""
