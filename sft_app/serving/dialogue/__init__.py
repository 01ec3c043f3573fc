"""Talk to a saved model in a terminal."""
