"""The files of a run's directory: their names, and the typed record that result.json holds.

Writers (training, launch) and readers (reporting) meet here. Imports nothing heavy.
"""
