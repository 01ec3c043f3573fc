"""What one run did: its files read, its page, its figures."""
