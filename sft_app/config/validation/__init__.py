"""Rules between settings: what cannot work is refused before anything is written or loaded."""
