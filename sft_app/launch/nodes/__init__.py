"""Several nodes for one job: who decides, where they meet, and whether they share a folder."""
