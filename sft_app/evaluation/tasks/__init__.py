"""RULER-style tasks (Hsieh et al. 2024, arXiv:2404.06654) and the passkey, as exact token rows.

Definitions are the paper's; text, wording and haystack are this application's own, which is why the
tasks are called RULER-style: scores are comparable between models measured here, not with the
paper's tables.
"""
