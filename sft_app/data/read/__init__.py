"""From what `data.train` and `data.eval` name to usable conversations."""
