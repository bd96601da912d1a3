"""Frames that are decoded when a batch needs them, ahead of it, by worker processes."""
