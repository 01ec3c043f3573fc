"""The same in brief, for a terminal."""
