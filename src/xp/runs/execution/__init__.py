"""One attempt at a run: signals, threads, output and progress around a task."""
