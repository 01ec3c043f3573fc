"""A sweep: its jobs are composed, checked, and run here, on Ray or on Slurm."""
