"""The words of a command line, checked and written as Hydra reads them, before it composes.

Hydra refuses what is wrong too, but names neither the nearest key nor the override that works.
"""
