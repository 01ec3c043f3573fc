"""Where a checkpoint is, and what its files say before any weight is read."""
