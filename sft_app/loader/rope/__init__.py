"""How a model knows positions, and how its context is extended."""
