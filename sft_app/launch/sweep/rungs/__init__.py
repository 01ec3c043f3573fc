"""Budgets that grow: cells go on from the checkpoint of a smaller one, all or only the best."""
