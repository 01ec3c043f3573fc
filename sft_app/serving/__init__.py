"""What leaves the building: the saved model, checked and described, for whoever serves it."""
