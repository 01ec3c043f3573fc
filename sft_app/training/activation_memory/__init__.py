"""What a forward keeps for its backward: made smaller, or moved to the host."""
