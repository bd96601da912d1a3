"""A launcher: a process for each job, some at a time."""
