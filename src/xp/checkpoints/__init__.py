"""Checkpoints on disk: what FOLDER@STEP means, where a run keeps its policies, and named arrays in files."""
