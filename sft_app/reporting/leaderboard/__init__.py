"""The leaderboard: what each extension method costs, from the cells of any sweep.

cells ─▶ measured points ─▶ recovery, spread, tests, claims ─▶ page, JSON
"""
