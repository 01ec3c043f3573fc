"""The settings described for people and editors, from the docstrings of their dataclasses.

`python -m sft_app.config.reference` writes docs/reference/settings.md and conf/schema.json.
"""
