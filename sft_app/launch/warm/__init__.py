"""A warm interpreter from which the workers of a sweep's jobs are forked."""
