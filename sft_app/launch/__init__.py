"""Worker processes for one job, and the jobs of a sweep. Never imports torch."""
