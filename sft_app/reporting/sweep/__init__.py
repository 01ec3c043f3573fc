"""What the cells of a sweep came to, compared: table, figures, page."""
