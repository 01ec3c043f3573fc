"""Successive halving: how the settings of a rung rank."""
