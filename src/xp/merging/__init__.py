"""Merging: arithmetic on named arrays, streamed from checkpoint files to a checkpoint file. Knows no framework."""
